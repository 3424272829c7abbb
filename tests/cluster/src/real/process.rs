//! A program that does not outlive this process, even when that is killed.
//!
//! `setpriv --pdeathsig KILL` does it. But the kernel delivers that signal when
//! the *thread* that started the child ends, and a test's thread may end before
//! the cluster it handed on. So each child is started by a thread that does
//! nothing else and stays until the child is gone.

use std::{
    fs::{self, File},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::mpsc::{Sender, channel},
    thread,
};

use anyhow::{Context, Result};

/// A running program; it is killed when this is dropped.
#[derive(Debug)]
pub(super) struct Process {
    name: String,
    log: PathBuf,
    child: Child,
    /// Keeps the thread that started the child.
    parent: Option<(Sender<()>, thread::JoinHandle<()>)>,
}

impl Process {
    /// Starts the program with its output in `<directory>/<name>.log`.
    pub(super) fn start(program: &Path, directory: &Path, arguments: &[String]) -> Result<Self> {
        let name = program
            .file_name()
            .map(|name| name.to_string_lossy().into_owned())
            .context("a program without a name")?;
        let log = directory.join(format!("{name}.log"));
        let output = File::create(&log).with_context(|| format!("create {}", log.display()))?;
        let mut command = Command::new("setpriv");
        command
            .args(["--pdeathsig", "KILL", "--"])
            .arg(program)
            .args(arguments)
            .current_dir(directory)
            .stdin(Stdio::null())
            .stdout(output.try_clone().context("a second handle of the log")?)
            .stderr(output);

        let (stay, until) = channel::<()>();
        let (answer, child) = channel();
        let thread = thread::Builder::new()
            .name(name.clone())
            .spawn(move || {
                if answer.send(command.spawn()).is_ok() {
                    // Nothing is ever sent: it ends when the sender goes.
                    until.iter().for_each(drop);
                }
            })
            .context("start a thread")?;
        let child = child
            .recv()
            .context("the thread that starts programs is gone")?
            .with_context(|| format!("start {} by way of setpriv", program.display()))?;
        Ok(Self {
            name,
            log,
            child,
            parent: Some((stay, thread)),
        })
    }

    /// Of the program itself: `setpriv` has become it.
    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Why it is no longer there, with the end of its log; none while it runs.
    pub(super) fn death(&mut self) -> Result<Option<String>> {
        let ended = self
            .child
            .try_wait()
            .with_context(|| format!("ask for the end of {}", self.name))?;
        Ok(ended.map(|status| format!("{} ended with {status}:\n{}", self.name, self.tail())))
    }

    /// The last lines that it wrote.
    pub(super) fn tail(&self) -> String {
        match fs::read(&self.log) {
            Ok(bytes) => {
                let text = String::from_utf8_lossy(&bytes);
                let lines: Vec<&str> = text.lines().collect();
                let from = lines.len().saturating_sub(20);
                lines.get(from..).unwrap_or_default().join("\n")
            }
            Err(error) => format!("{} cannot be read: {error}", self.log.display()),
        }
    }
}

impl Drop for Process {
    /// Nothing of it is kept, so it gets no time to say goodbye.
    fn drop(&mut self) {
        if let Err(error) = self.child.kill().and_then(|()| self.child.wait().map(drop)) {
            eprintln!("cannot end {} ({}): {error}", self.name, self.child.id());
        }
        if let Some((stay, thread)) = self.parent.take() {
            drop(stay);
            if thread.join().is_err() {
                eprintln!("the thread that started {} panicked", self.name);
            }
        }
    }
}
