//! The kernel, the initramfs and the system disk every machine shares, built once per key.

use std::fs::{self, File};
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Instant;

use anyhow::{Context, Result, bail};

use crate::cache::{Cache, Lock};
use crate::kernel::{extract_vmlinux, strip_signatures};
use crate::key::{INPUTS, image_key};

/// The image in use. Its lock, shared with every other user, keeps it from being removed.
#[derive(Debug)]
pub(crate) struct Image {
    key: String,
    dir: PathBuf,
    _in_use: Lock,
}

impl Image {
    /// The image of this binary's inputs: the cached one, or a new one.
    pub(crate) fn find_or_build(cache: &Cache) -> Result<Self> {
        let key = image_key();
        let images = cache.images();
        let dir = images.join(&key);
        let lock_file = images.join(format!("{key}.lock"));
        loop {
            let lock = Lock::shared(&lock_file)?;
            if dir.exists() {
                return Ok(Self {
                    key,
                    dir,
                    _in_use: lock,
                });
            }
            drop(lock);
            let lock = Lock::exclusive(&lock_file)?;
            if !dir.exists() {
                build(&images, &key)?;
                remove_unused(&images, &key)?;
            }
            drop(lock);
        }
    }

    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    pub(crate) fn vmlinux(&self) -> PathBuf {
        self.dir.join("vmlinux")
    }

    pub(crate) fn initramfs(&self) -> PathBuf {
        self.dir.join("initramfs")
    }

    /// The system disk, raw; only ever the base of overlays.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("root.img")
    }

    pub(crate) fn templates(&self) -> PathBuf {
        self.dir.join("templates")
    }
}

/// Builds in `<key>.tmp` and renames when all is done, so what carries the name of a key is whole.
fn build(images: &Path, key: &str) -> Result<()> {
    let started = Instant::now();
    eprintln!("vm-fixtures: building the guest image {key} (a few minutes)");
    let work = images.join(format!("{key}.tmp"));
    remove(&work)?;
    fs::create_dir_all(&work).with_context(|| format!("create {}", work.display()))?;
    let inputs = work.join("inputs");
    fs::create_dir(&inputs).context("create the directory of inputs")?;
    for input in INPUTS {
        let path = inputs.join(input.name);
        fs::write(&path, input.bytes).with_context(|| format!("write {}", path.display()))?;
    }
    step(&work, "rootfs.sh")?;
    eprintln!(
        "vm-fixtures: packages unpacked after {:.0?}",
        started.elapsed()
    );
    extract_vmlinux(&work.join("bzImage"), &work.join("vmlinux"))?;
    let stripped = strip_signatures(&work.join("root/usr/lib/modules"))?;
    if stripped == 0 {
        bail!("no kernel module was signed: not the modules of a Debian kernel?");
    }
    step(&work, "disk.sh")?;
    fs::create_dir(work.join("templates")).context("create the directory of templates")?;
    remove(&inputs)?;
    for file in ["vmlinux", "initramfs", "root.img"] {
        let path = work.join(file);
        File::open(&path)
            .and_then(|file| file.sync_all())
            .with_context(|| format!("write {} to disk", path.display()))?;
    }
    fs::rename(&work, images.join(key)).context("name the finished image")?;
    eprintln!(
        "vm-fixtures: image finished after {:.0?}",
        started.elapsed()
    );
    Ok(())
}

/// Runs one of the embedded scripts; its output goes to a log, whose end goes into the error.
fn step(work: &Path, script: &str) -> Result<()> {
    let log_path = work.join("build.log");
    let log = File::options().create(true).append(true).open(&log_path)?;
    let inputs = work.join("inputs");
    let script_path = inputs.join(script);
    fs::set_permissions(&script_path, fs::Permissions::from_mode(0o755))?;
    // In namespaces of its own: neither a mount nor a process outlives an interrupted build, and
    // removing its directory later cannot reach through a mount left in it.
    let status = Command::new("setpriv")
        .args([
            "--pdeathsig",
            "KILL",
            "--",
            "unshare",
            "--mount",
            "--mount-proc",
        ])
        .args(["--pid", "--fork", "--kill-child", "--", "sh"])
        .arg(&script_path)
        .args([&inputs, work])
        .env("LC_ALL", "C.UTF-8")
        .stdout(log.try_clone()?)
        .stderr(log)
        .status()
        .with_context(|| format!("run {script}"))?;
    if !status.success() {
        let log = fs::read_to_string(&log_path).unwrap_or_default();
        let lines: Vec<&str> = log.lines().collect();
        let tail = lines
            .get(lines.len().saturating_sub(30)..)
            .unwrap_or_default();
        bail!(
            "building the guest image failed in {script} ({status}); it needs root and a Debian \
             mirror. The end of {}:\n{}",
            log_path.display(),
            tail.join("\n")
        );
    }
    Ok(())
}

/// Removes the images of other keys that nobody uses, and what interrupted builds left.
fn remove_unused(images: &Path, current: &str) -> Result<()> {
    for entry in fs::read_dir(images).with_context(|| format!("list {}", images.display()))? {
        let lock_file = entry?.path();
        let Some(key) = lock_file.file_name().and_then(|name| name.to_str()) else {
            continue;
        };
        let Some(key) = key.strip_suffix(".lock") else {
            continue;
        };
        if key == current {
            continue;
        }
        if let Some(_alone) = Lock::try_exclusive(&lock_file)? {
            eprintln!("vm-fixtures: removing the unused image {key}");
            // First out of its name: a removal cut short must not leave half an image behind it.
            let gone = images.join(format!("{key}.tmp"));
            remove(&gone)?;
            if images.join(key).exists() {
                fs::rename(images.join(key), &gone).context("set an old image aside")?;
                remove(&gone)?;
            }
            fs::remove_file(&lock_file).context("remove an old lock file")?;
        }
    }
    Ok(())
}

pub(crate) fn remove(dir: &Path) -> Result<()> {
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(error).with_context(|| format!("remove {}", dir.display()))
        }
        Ok(()) | Err(_) => Ok(()),
    }
}
