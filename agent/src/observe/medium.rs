//! Reads what a disk holds: the claim at its ends, what libblkid knows, and
//! whether all the rest that a proof of blankness asks for is zero. Read only,
//! through one descriptor.

use std::{
    fs::{self, File, OpenOptions},
    io,
    ops::{ControlFlow, Range},
    os::unix::fs::{FileExt, FileTypeExt, MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use nix::fcntl::{FcntlArg, OFlag, fcntl};
use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

use super::{
    Identity, beyond,
    longhorn_disk::{self, LonghornDisk},
    peek::peek,
    pieces::{Pieces, first_nonzero},
    resectored::{Resectored, resectored},
    sample::Seed,
    scan::{Scan, ZERO_END, scan},
    signature::{Part, Signature, probe, probe_beside_table},
    superblock::{Extent, Progress, extent, progress},
};
use crate::{
    approval::Token,
    claim::{
        Begun, Claim, Ends, Geometry, Resized, Stage, Table, earlier_geometry, inspect_with,
        partition_range,
    },
    fact::Fact,
    sys,
    text::hex,
    units::{DevNo, Filesystem},
};

/// What was read off a disk.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Medium {
    /// Our claim, if it carries one.
    pub table: Fact<Table>,
    /// Inside and around the claimed partition. `None` when there is no claim.
    pub partition: Option<Inside>,
    /// Of the whole disk, when it carries no claim and might be blank.
    pub content: Option<Content>,
    /// What the only partition of a disk without a claim holds.
    #[serde(default)]
    pub lodger: Option<Lodger>,
    /// A claim of ours for sectors of another size than the disk has here.
    #[serde(default)]
    pub resectored: Option<Resectored>,
}

/// What the only partition of a disk holds that carries no claim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Lodger {
    /// What libblkid finds in it.
    pub signature: Fact<Signature>,
    /// What a filesystem of a kind that Longhorn uses says of Longhorn. `None`
    /// when there is none such, or it may not be looked into.
    pub longhorn: Option<Fact<LonghornDisk>>,
    /// What libblkid finds on the whole disk besides the table, while it is not
    /// mounted.
    #[serde(default)]
    pub beside: Option<Fact<Signature>>,
}

impl Lodger {
    fn is_read(&self) -> bool {
        let looked = self.longhorn.as_ref();
        self.signature.known().is_ok()
            && looked.is_none_or(|longhorn| longhorn.known().is_ok())
            && self
                .beside
                .as_ref()
                .is_none_or(|beside| beside.known().is_ok())
    }
}

/// How a filesystem is looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Window {
    /// It is mounted there.
    Mounted(PathBuf),
    /// Nobody has mounted it.
    Device,
    /// Not at all: only what it is, as libblkid tells.
    Closed,
}

/// What a claimed partition holds, and the space around it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Inside {
    /// What libblkid finds in the partition.
    pub signature: Fact<Signature>,
    /// How far a filesystem has come that may be ours. `None` when there is
    /// none, or the claim is committed and nothing depends on it.
    pub progress: Option<Fact<Progress>>,
    /// First byte in either end of the partition that is not zero, while the
    /// claim is pending.
    pub residue: Option<Fact<Option<u64>>>,
    /// First byte between the table and the partition, in front or behind, that
    /// is not zero, nor what it was when a person approved the disk; while the
    /// claim is pending.
    pub around: Option<Fact<Option<u64>>>,
    /// What libblkid finds on the whole disk besides the table, while the claim
    /// is pending or its filesystem not mounted where this process sees it.
    pub beside: Option<Fact<Signature>>,
    /// First byte behind the partition that is neither zero nor the claim's own,
    /// where the disk was enlarged after the claim was committed.
    pub beyond: Option<Fact<Option<u64>>>,
    /// How much of the partition a committed filesystem uses, while it is
    /// mounted where this process sees it.
    pub extent: Option<Fact<Extent>>,
    /// The claim was recognised with the help of this host's journal.
    pub journalled: bool,
}

impl Inside {
    fn is_read(&self) -> bool {
        let known = |fact: &Option<Fact<Option<u64>>>| {
            fact.as_ref().is_none_or(|fact| fact.known().is_ok())
        };
        let progress = self
            .progress
            .as_ref()
            .is_none_or(|fact| fact.known().is_ok());
        let beside = self.beside.as_ref().is_none_or(|fact| fact.known().is_ok());
        let extent = self.extent.as_ref().is_none_or(|fact| fact.known().is_ok());
        self.signature.known().is_ok()
            && progress
            && beside
            && extent
            && known(&self.residue)
            && known(&self.around)
            && known(&self.beyond)
    }
}

impl Medium {
    /// Everything that was asked of the medium could be read.
    pub fn is_read(&self) -> bool {
        let content = self.content.as_ref().is_none_or(|content| {
            content.signature.known().is_ok()
                && content
                    .scan
                    .as_ref()
                    .is_none_or(|scan| scan.known().is_ok())
        });
        let partition = self.partition.as_ref().is_none_or(Inside::is_read);
        let lodger = self.lodger.as_ref().is_none_or(Lodger::is_read);
        self.table.known().is_ok() && content && partition && lodger
    }

    /// Nothing is said that may be otherwise without any event, as somebody's
    /// exclusive hold may.
    pub fn is_settled(&self) -> bool {
        let free = |content: &Content| content.busy == Fact::Known(false);
        self.is_read() && self.content.as_ref().is_none_or(free)
    }
}

/// What speaks for and against blankness.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Content {
    /// What libblkid finds on the whole disk.
    pub signature: Fact<Signature>,
    /// What the rest of it holds. `None` when libblkid found an owner: then
    /// nothing depends on it.
    pub scan: Option<Fact<Scan>>,
    /// Approvals of the policy that hold for the disk in this state.
    pub approvals: Vec<Token>,
    /// Somebody holds the disk exclusively: a mount in any namespace, a
    /// stacked driver, another program.
    pub busy: Fact<bool>,
}

/// How much to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Depth {
    /// The claim only: the disk is in some use or not eligible.
    Claim,
    /// All that a proof of blankness needs, unless there is a claim.
    Blankness,
    /// The same, and where libblkid found an owner also what else there is:
    /// for a person.
    Everything,
}

/// Opens a block device for reading and makes sure that it is the one meant.
///
/// # Errors
/// When it cannot be opened or its device number is another.
pub fn open(node: &Path, devno: DevNo) -> io::Result<File> {
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NONBLOCK)
        .open(node)?;
    check_identity(&file, node, devno)?;
    Ok(file)
}

/// Makes sure that an open file is the block device of that number.
///
/// # Errors
/// When it is not.
pub fn check_identity(file: &File, node: &Path, devno: DevNo) -> io::Result<()> {
    let metadata = file.metadata()?;
    let there = DevNo::from_raw(metadata.rdev());
    if metadata.file_type().is_block_device() && there == devno {
        return Ok(());
    }
    Err(io::Error::other(format!(
        "{} is not block device {devno} but {there}",
        node.display()
    )))
}

/// Size and sector size as the open device says.
///
/// # Errors
/// What the kernel answers.
pub fn geometry(disk: &File) -> io::Result<Geometry> {
    Ok(Geometry {
        size: sys::device_size(disk)?,
        sector: sys::logical_sector_size(disk)?,
    })
}

/// Reads the claim alone.
pub fn read_table(disk: &File, node: &Path, geometry: Geometry, begun: &[Begun]) -> Fact<Table> {
    match read_with_earlier(disk, geometry) {
        Ok(Some((ends, earlier))) => Fact::Known(inspect_with(&ends, earlier.as_ref(), begun)),
        // Too small or odd for a table of ours, so there is no claim.
        Ok(None) => Fact::Known(Table::Absent),
        Err(error) => Fact::unreadable(node.display(), error),
    }
}

/// Both ends, and where the header in front speaks of a smaller disk also the
/// ends of that one.
pub(super) fn read_with_earlier(
    disk: &File,
    geometry: Geometry,
) -> io::Result<Option<(Ends, Option<Ends>)>> {
    let Some(ends) = read_ends(disk, geometry)? else {
        return Ok(None);
    };
    let earlier = match earlier_geometry(&ends) {
        Some(earlier) => read_ends(disk, earlier)?,
        None => None,
    };
    Ok(Some((ends, earlier)))
}

/// What is asked of a disk.
#[derive(Debug, Clone)]
pub struct Question<'a> {
    /// Claims that the journal says were begun on it.
    pub begun: &'a [Begun],
    /// Node and number of its first partition where the kernel knows one: its
    /// cache is the one that a mount and mkfs write through.
    pub partition: Option<(&'a Path, DevNo)>,
    /// How to look into that partition, where it may be looked into.
    pub window: Option<&'a Window>,
    /// Directory of device nodes.
    pub nodes: &'a Path,
    /// Where its first partition is mounted, as this process sees it.
    pub mounted: Option<&'a Path>,
    /// How much to read.
    pub depth: Depth,
    /// Where to take the sample.
    pub seed: Seed,
    /// What the disk says of itself.
    pub identity: &'a Fact<Identity>,
    /// Approvals to compare its state with.
    pub approvals: &'a [Token],
}

/// Reads a disk.
pub fn examine(disk: &File, node: &Path, geometry: Geometry, question: &Question<'_>) -> Medium {
    let table = read_table(disk, node, geometry, question.begun);
    let claim = match table.known() {
        Ok(Table::Ours { claim, resized, .. }) => Some((claim.clone(), *resized)),
        Ok(Table::Absent | Table::Foreign) | Err(_) => None,
    };
    let content = (claim.is_none() && question.depth != Depth::Claim)
        .then(|| content(disk, node, geometry, question));
    let lodger = match (&claim, question.partition, question.window) {
        (None, Some(partition), Some(window)) => Some(lodger(disk, partition, window, question)),
        (Some(_), _, _) | (_, None, _) | (_, _, None) => None,
    };
    let partition =
        claim.map(|(claim, resized)| inside(disk, node, geometry, (&claim, resized), question));
    let blank = |content: &Content| {
        let zero = |scan: &Fact<Scan>| scan.is_known_and(|scan| scan.residue.is_none());
        content.scan.as_ref().is_some_and(zero)
    };
    let read = table.known().is_ok() && partition.is_none();
    let resectored = (read && !content.as_ref().is_some_and(blank))
        .then(|| resectored(disk, geometry))
        .flatten();
    Medium {
        table,
        partition,
        content,
        lodger,
        resectored,
    }
}

/// Reads what the only partition of a disk without a claim holds.
fn lodger(
    disk: &File,
    (node, devno): (&Path, DevNo),
    window: &Window,
    question: &Question<'_>,
) -> Lodger {
    let partition = match open(node, devno) {
        Ok(partition) => partition,
        Err(error) => {
            return Lodger {
                signature: Fact::unreadable(node.display(), error),
                longhorn: None,
                beside: None,
            };
        }
    };
    let signature = probe(&partition, Part::Whole);
    let filesystem = match signature.known() {
        Ok(Signature::Found(found)) => Filesystem::from_name(&found.kind),
        Ok(Signature::Nothing | Signature::Ambivalent) | Err(_) => None,
    };
    let longhorn = filesystem.and_then(|filesystem| {
        let looked = match window {
            Window::Device => peek(&partition, filesystem, question.nodes),
            Window::Mounted(path) => read_mounted(path, devno),
            Window::Closed => return None,
        };
        Some(match looked {
            Ok(longhorn) => Fact::Known(longhorn),
            Err(error) => Fact::unreadable(longhorn_disk::FILE, error),
        })
    });
    let beside = match window {
        Window::Mounted(_) => None,
        Window::Device | Window::Closed => Some(probe_beside_table(disk)),
    };
    Lodger {
        signature,
        longhorn,
        beside,
    }
}

/// Reads the file where its filesystem is mounted, if that is still the one.
fn read_mounted(path: &Path, devno: DevNo) -> io::Result<LonghornDisk> {
    let root = fs::metadata(path)?;
    if DevNo::from_raw(root.dev()) != devno {
        return Err(io::Error::other(format!(
            "{} is not the mount of {devno}",
            path.display()
        )));
    }
    let file = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_NOFOLLOW | libc::O_NONBLOCK)
        .open(path.join(longhorn_disk::FILE));
    match file {
        Ok(file) if file.metadata()?.is_file() => longhorn_disk::read(file),
        Ok(_other) => Ok(LonghornDisk::Nameless),
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(LonghornDisk::None),
        Err(error) => Err(error),
    }
}

/// Reads what a disk without a claim holds.
fn content(disk: &File, node: &Path, geometry: Geometry, question: &Question<'_>) -> Content {
    let signature = probe(disk, Part::Whole);
    let scanned = |seed| match scan(disk, geometry, seed) {
        Ok(scan) => Fact::Known(scan),
        Err(error) => Fact::unreadable(node.display(), error),
    };
    let unowned = signature == Fact::Known(Signature::Nothing);
    let wanted = unowned || question.depth == Depth::Everything;
    let scan = wanted.then(|| scanned(question.seed));
    let residue = unowned
        && scan.as_ref().is_some_and(|scan| {
            scan.is_known_and(|scan| scan.residue.is_some() && scan.traces.iter().all(|t| t.wiped))
        });
    // A token is compared with what is read where its own seed says.
    let holds = |token: &&Token| match (question.identity, scanned(token.seed())) {
        (Fact::Known(identity), Fact::Known(scan)) => {
            Token::of(identity, geometry, &scan) == **token
        }
        (Fact::Unreadable(_), _) | (_, Fact::Unreadable(_)) => false,
    };
    let approvals = if residue {
        question.approvals.iter().filter(holds).copied().collect()
    } else {
        Vec::new()
    };
    Content {
        signature,
        scan,
        approvals,
        busy: is_busy(node, disk),
    }
}

/// Where the partition of a claim lies: where it was before the disk was
/// enlarged, until the table for the new size has begun to hold.
pub fn claimed_range(geometry: Geometry, resized: Option<Resized>) -> Option<Range<u64>> {
    let range = partition_range(geometry)?;
    match resized {
        Some(Resized::Grown {
            partition_end,
            moved: false,
        }) => Some(range.start..partition_end),
        Some(Resized::Grown { moved: true, .. } | Resized::Shrunk { .. }) | None => Some(range),
    }
}

/// Reads a claimed partition, through its own node where the kernel knows it.
fn inside(
    disk: &File,
    node: &Path,
    geometry: Geometry,
    (claim, resized): (&Claim, Option<Resized>),
    question: &Question<'_>,
) -> Inside {
    let begun = question.begun.iter().find(|begun| begun.id == claim.id);
    let journalled = begun.is_some();
    let nothing = |why: &dyn std::fmt::Display| Inside {
        signature: Fact::unreadable(node.display(), why),
        progress: None,
        residue: None,
        around: None,
        beside: None,
        beyond: None,
        extent: None,
        journalled,
    };
    let Some(range) = claimed_range(geometry, resized) else {
        return nothing(&"no room for a partition");
    };
    let opened = question
        .partition
        .map(|(node, devno)| open(node, devno))
        .transpose();
    let opened = match opened {
        Ok(opened) => opened,
        Err(error) => return nothing(&error),
    };
    let length = range.end - range.start;
    let (device, start, part) = match &opened {
        Some(partition) => (partition, 0, Part::Whole),
        None => (
            disk,
            range.start,
            Part::Range {
                start: range.start,
                length,
            },
        ),
    };
    let signature = probe(device, part);
    // What follows matters only to whether mkfs may run again.
    let pending = claim.stage == Stage::Pending;
    let ours = match signature.known() {
        Ok(Signature::Found(found)) => Filesystem::from_name(&found.kind),
        Ok(Signature::Nothing | Signature::Ambivalent) | Err(_) => None,
    };
    let progress =
        ours.filter(|_| pending)
            .map(|filesystem| match progress(device, start, filesystem) {
                Ok(progress) => Fact::Known(progress),
                Err(error) => Fact::unreadable(node.display(), error),
            });
    let residue = pending.then(|| residue_fact(node, first_residue(device, start..start + length)));
    let around = pending.then(|| {
        let approved = begun.and_then(|begun| begun.gaps.as_deref());
        residue_fact(node, around(disk, geometry, approved))
    });
    let beyond = match resized {
        Some(Resized::Grown { partition_end, .. }) if !pending => {
            let foreign =
                beyond::first_foreign(disk, geometry, partition_end, &claim.id, question.seed);
            Some(residue_fact(node, foreign))
        }
        Some(Resized::Grown { .. } | Resized::Shrunk { .. }) | None => None,
    };
    let extent = match (&opened, question.mounted, ours) {
        (Some(partition), Some(place), Some(filesystem)) if !pending => {
            let asked = open_mount(place, partition)
                .and_then(|mount| extent(partition, &mount, filesystem));
            Some(match asked {
                Ok(extent) => Fact::Known(extent),
                Err(error) => Fact::unreadable(place.display(), error),
            })
        }
        (Some(_) | None, Some(_) | None, Some(_) | None) => None,
    };
    Inside {
        signature,
        progress,
        residue,
        around,
        beside: (pending || question.mounted.is_none()).then(|| probe_beside_table(disk)),
        beyond,
        extent,
        journalled,
    }
}

/// Opens the directory that a device is mounted on and makes sure that it is
/// the mount of this device.
///
/// # Errors
/// When it cannot be opened or another device is mounted there.
pub fn open_mount(place: &Path, device: &File) -> io::Result<File> {
    let mount = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_DIRECTORY | libc::O_NOFOLLOW)
        .open(place)?;
    if mount.metadata()?.dev() == device.metadata()?.rdev() {
        return Ok(mount);
    }
    Err(io::Error::other("another device is mounted there"))
}

/// What lies between the table and the partition, in front and behind.
fn gaps(geometry: Geometry) -> Option<[Range<u64>; 2]> {
    let partition = partition_range(geometry)?;
    let tail = Ends::tail_start(geometry)?;
    Some([
        Ends::head_len(geometry)..partition.start,
        partition.end..tail,
    ])
}

/// First byte of the gaps that is not zero, unless all of them is what a person
/// approved.
fn around(disk: &File, geometry: Geometry, approved: Option<&str>) -> io::Result<Option<u64>> {
    let mut pieces = Pieces::of(disk);
    for gap in gaps(geometry).into_iter().flatten() {
        if let Some(at) = first_nonzero(&mut pieces, gap)? {
            let same = match approved {
                Some(digest) => digest_gaps(disk, geometry)? == digest,
                None => false,
            };
            return Ok((!same).then_some(at));
        }
    }
    Ok(None)
}

/// SHA-256 of what lies between the table and the partition.
///
/// # Errors
/// When it cannot be read.
pub fn digest_gaps(disk: &File, geometry: Geometry) -> io::Result<String> {
    let mut pieces = Pieces::of(disk);
    let mut hash = Sha256::new();
    for gap in gaps(geometry).into_iter().flatten() {
        pieces.each(gap, |_, piece| {
            hash.update(piece);
            ControlFlow::Continue(())
        })?;
    }
    Ok(hex(&hash.finalize()))
}

fn residue_fact(node: &Path, found: io::Result<Option<u64>>) -> Fact<Option<u64>> {
    match found {
        Ok(residue) => Fact::Known(residue),
        Err(error) => Fact::unreadable(node.display(), error),
    }
}

/// Reads both ends; `None` where no table of ours has room.
///
/// # Errors
/// When either cannot be read.
pub fn read_ends(disk: &File, geometry: Geometry) -> io::Result<Option<Ends>> {
    let Some(tail_start) = Ends::tail_start(geometry) else {
        return Ok(None);
    };
    let read = |at: u64, len: u64| -> io::Result<Vec<u8>> {
        let mut bytes = vec![0; usize::try_from(len).map_err(io::Error::other)?];
        disk.read_exact_at(&mut bytes, at)?;
        Ok(bytes)
    };
    let head = read(0, Ends::head_len(geometry))?;
    let tail = read(tail_start, Ends::tail_len(geometry))?;
    Ok(Ends::new(geometry, head, tail))
}

/// First byte in the first and last 8 MiB of a range that is not zero.
fn first_residue(device: &File, range: Range<u64>) -> io::Result<Option<u64>> {
    let head_end = range.end.min(range.start.saturating_add(ZERO_END));
    let tail_start = range.end.saturating_sub(ZERO_END).max(head_end);
    let mut pieces = Pieces::of(device);
    for end in [range.start..head_end, tail_start..range.end] {
        if let Some(at) = first_nonzero(&mut pieces, end)? {
            return Ok(Some(at));
        }
    }
    Ok(None)
}

/// Asks the kernel for the exclusive right and gives it back at once. It sees
/// use in every mount namespace, which no mount table does.
pub fn is_busy(node: &Path, disk: &File) -> Fact<bool> {
    use std::os::fd::AsRawFd;
    let opened = OpenOptions::new()
        .read(true)
        .custom_flags(libc::O_CLOEXEC | libc::O_EXCL)
        .open(format!("/proc/self/fd/{}", disk.as_raw_fd()));
    match opened {
        Ok(free) => {
            sys::close_for_others(free);
            Fact::Known(false)
        }
        Err(error) if error.raw_os_error() == Some(libc::EBUSY) => Fact::Known(true),
        Err(error) => Fact::unreadable(format_args!("exclusive open of {}", node.display()), error),
    }
}

/// Clears `O_NONBLOCK`, which is only wanted while opening a device that may
/// have no medium.
///
/// # Errors
/// What the kernel answers.
pub fn set_blocking(file: &File) -> io::Result<()> {
    fcntl(file, FcntlArg::F_SETFL(OFlag::empty()))?;
    Ok(())
}
