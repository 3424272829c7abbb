//! The files of a machine, as longhorn-manager sees them from the host.

use std::{
    io,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use anyhow::{Context, Result};
use cluster_fixtures::longhorn::manager::{DiskFiles, Space};
use vm_tests::Node;

/// What `stat -f` is asked for; its name for ext4 is Longhorn's as well.
const FIGURES: &str = "%i %T %S %b %f";

/// A machine that a test and longhorn-manager share, and that is off at times.
#[derive(Debug, Clone)]
pub struct Guest(Arc<Mutex<Option<Node>>>);

impl Guest {
    pub fn new(node: Node) -> Self {
        Self(Arc::new(Mutex::new(Some(node))))
    }

    fn lock(&self) -> MutexGuard<'_, Option<Node>> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Does something in the machine; nobody else does meanwhile, so it must not
    /// wait for anything that longhorn-manager does.
    pub fn with<T>(&self, act: impl FnOnce(&mut Node) -> Result<T>) -> Result<T> {
        act(self.lock().as_mut().context("the machine is off")?)
    }

    /// Switches it off and on, and does something while it is off.
    pub fn reboot(&self, meanwhile: impl FnOnce()) -> Result<()> {
        let mut place = self.lock();
        let node = place.take().context("the machine is off")?;
        let off = node.vm.shutdown()?;
        meanwhile();
        *place = Some(Node::again(off)?);
        Ok(())
    }

    /// Ends it, when whoever is in the middle of something has done.
    pub fn end(&self) {
        drop(self.lock().take());
    }
}

/// See the module. Commands in an emulated machine take their time, so one asks
/// for all that longhorn-manager wants to know of a disk when it looks there.
#[derive(Debug)]
pub struct GuestFiles {
    guest: Guest,
    looked: Mutex<Option<Looked>>,
}

/// What a look has found and nobody has asked for yet.
#[derive(Debug)]
struct Looked {
    file: PathBuf,
    content: Option<Vec<u8>>,
    space: Option<Space>,
}

impl GuestFiles {
    pub fn of(guest: &Guest) -> Self {
        Self {
            guest: guest.clone(),
            looked: Mutex::default(),
        }
    }

    /// The output of a script; what it says when it fails is the error.
    fn run(&self, script: &str) -> io::Result<String> {
        let ended = self.guest.with(|node| node.vm.run(script));
        let ended = ended.map_err(io::Error::other)?;
        if ended.success() {
            return Ok(ended.stdout);
        }
        Err(io::Error::other(ended.stderr.trim_end().to_owned()))
    }

    fn looked(&self) -> MutexGuard<'_, Option<Looked>> {
        self.looked.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl DiskFiles for GuestFiles {
    fn stat(&self, path: &Path) -> io::Result<()> {
        let (file, directory) = (quoted(path), quoted(path.parent().unwrap_or(path)));
        let script = format!(
            "stat -f -c '{FIGURES}' {directory} 2>/dev/null || echo none
             [ -e {file} ] || exit 0
             text=$(cat {file} 2>/dev/null) && printf 'read\n%s' \"$text\" || echo there"
        );
        let said = self.run(&script)?;
        let (figures, rest) = said.split_once('\n').unwrap_or((&said, ""));
        *self.looked() = Some(Looked {
            file: path.to_owned(),
            content: rest
                .strip_prefix("read\n")
                .map(|text| text.as_bytes().to_vec()),
            space: space(figures),
        });
        if rest.is_empty() {
            return Err(io::ErrorKind::NotFound.into());
        }
        Ok(())
    }

    fn read(&self, path: &Path) -> io::Result<Vec<u8>> {
        let looked = self
            .looked()
            .as_mut()
            .filter(|one| one.file == path)
            .and_then(|one| one.content.take());
        match looked {
            Some(content) => Ok(content),
            None => Ok(self.run(&format!("cat {}", quoted(path)))?.into_bytes()),
        }
    }

    fn create(&self, path: &Path, bytes: &[u8]) -> io::Result<()> {
        let text = String::from_utf8_lossy(bytes).replace('\'', r"'\''");
        // The disk may have been mounted since the look, which is seconds ago here.
        let script = format!(
            "set -C
             file={}
             [ -f \"$file\" ] && echo there && exit
             printf %s '{text}' > \"$file\" && echo made",
            quoted(path)
        );
        match self.run(&script)?.trim_end() {
            "made" => Ok(()),
            _ => Err(io::ErrorKind::AlreadyExists.into()),
        }
    }

    fn sync(&self, path: &Path) -> io::Result<()> {
        self.run(&format!("sync {}", quoted(path))).map(drop)
    }

    fn mkdir(&self, path: &Path) -> io::Result<()> {
        self.run(&format!("mkdir -p {}", quoted(path))).map(drop)
    }

    fn statfs(&self, path: &Path) -> io::Result<Space> {
        let looked = self
            .looked()
            .as_mut()
            .filter(|one| one.file.parent() == Some(path))
            .and_then(|one| one.space.take());
        if let Some(space) = looked {
            return Ok(space);
        }
        let said = self.run(&format!("stat -f -c '{FIGURES}' {}", quoted(path)))?;
        space(said.trim_end()).ok_or_else(|| io::Error::other(format!("not understood: {said}")))
    }
}

fn space(figures: &str) -> Option<Space> {
    let mut words = figures.split(' ');
    let (id, filesystem) = (words.next()?, words.next()?);
    let mut number = || words.next()?.parse::<i64>().ok();
    let (block, blocks, free) = (number()?, number()?, number()?);
    Some(Space {
        id: id.to_owned(),
        filesystem: filesystem.to_owned(),
        total: blocks.checked_mul(block)?,
        free: free.checked_mul(block)?,
    })
}

fn quoted(path: &Path) -> String {
    format!("'{}'", path.display().to_string().replace('\'', r"'\''"))
}
