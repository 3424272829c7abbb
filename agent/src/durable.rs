//! Small files and names on the host that must survive a power cut: whole or
//! not at all.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    path::{Path, PathBuf},
};

use serde::Serialize;
use thiserror::Error;

/// A file could not be written or removed.
#[derive(Debug, Error)]
#[error("{}: cannot {step}", path.display())]
pub struct WriteError {
    path: PathBuf,
    step: &'static str,
    #[source]
    source: io::Error,
}

/// Writes a value as JSON in place of whatever was there, and makes file, name
/// and directory durable.
///
/// # Errors
/// The step that failed; then the old file is still there.
pub fn write_json(path: &Path, value: &impl Serialize) -> Result<(), WriteError> {
    let text = serde_json::to_vec_pretty(value).map_err(|error| WriteError {
        path: path.to_owned(),
        step: "encode",
        source: io::Error::other(error),
    })?;
    write(path, &text)
}

/// Writes a file in place of whatever was there, and makes file, name and
/// directory durable.
///
/// # Errors
/// The step that failed; then the old file is still there.
pub fn write(path: &Path, text: &[u8]) -> Result<(), WriteError> {
    let failed = failed(path);
    let directory = directory_of(path);
    fs::create_dir_all(directory).map_err(failed("make its directory"))?;
    let temporary = path.with_extension("tmp");
    let mut file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(true)
        .open(&temporary)
        .map_err(failed("make the file"))?;
    let written = file
        .write_all(text)
        .map_err(failed("write"))
        .and_then(|()| file.sync_all().map_err(failed("sync")))
        .and_then(|()| fs::rename(&temporary, path).map_err(failed("rename")));
    if let Err(error) = written {
        // On a full disk half a file would take what room there is from others.
        drop(file);
        if let Err(error) = fs::remove_file(&temporary) {
            tracing::debug!(file = %temporary.display(), %error, "a half-written file stays");
        }
        return Err(error);
    }
    sync_directory(path)
}

/// Makes a symbolic link that is not there yet, and makes its name durable.
///
/// # Errors
/// The step that failed.
pub fn link(path: &Path, to: &Path) -> Result<(), WriteError> {
    let failed = failed(path);
    fs::create_dir_all(directory_of(path)).map_err(failed("make its directory"))?;
    std::os::unix::fs::symlink(to, path).map_err(failed("link"))?;
    sync_directory(path)
}

/// For `map_err` on a step.
fn failed(path: &Path) -> impl Fn(&'static str) -> Failed {
    let path = path.to_owned();
    move |step| {
        let path = path.clone();
        Box::new(move |source| WriteError { path, step, source })
    }
}

type Failed = Box<dyn FnOnce(io::Error) -> WriteError>;

/// Removes a file for good; one that is gone already is no error.
///
/// # Errors
/// The step that failed.
pub fn remove(path: &Path) -> Result<(), WriteError> {
    match fs::remove_file(path) {
        Ok(()) => sync_directory(path),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        Err(source) => Err(WriteError {
            path: path.to_owned(),
            step: "remove",
            source,
        }),
    }
}

fn sync_directory(path: &Path) -> Result<(), WriteError> {
    File::open(directory_of(path))
        .and_then(|directory| directory.sync_all())
        .map_err(|source| WriteError {
            path: path.to_owned(),
            step: "sync the directory of",
            source,
        })
}

/// Makes the name of a file or directory durable, and that of the directory
/// above it, which may have been made along with it.
///
/// # Errors
/// What the kernel answers.
pub fn sync_parents(path: &Path) -> io::Result<()> {
    path.ancestors()
        .skip(1)
        .take(2)
        .filter(|directory| !directory.as_os_str().is_empty())
        .try_for_each(|directory| File::open(directory)?.sync_all())
}

fn directory_of(path: &Path) -> &Path {
    path.parent().unwrap_or(Path::new("/"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_does_not_fit_leaves_the_old_file_and_no_half_of_a_new_one() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("file.json");
        write(&path, b"old").expect("written");
        let half = directory.path().join("file.tmp");
        std::os::unix::fs::symlink("/dev/full", &half).expect("a disk without room");
        let error = write(&path, b"new").expect_err("no room");
        assert!(error.to_string().ends_with("cannot write"), "{error}");
        assert!(fs::symlink_metadata(&half).is_err(), "half a file is left");
        assert_eq!(fs::read(&path).expect("the old file"), b"old");
    }

    #[test]
    fn a_name_is_made_durable_only_where_its_directory_is() {
        let root = tempfile::tempdir().expect("a directory");
        assert!(sync_parents(&root.path().join("name")).is_ok());
        assert!(sync_parents(&root.path().join("absent/name")).is_err());
    }
}
