//! The way in: images and templates, found or built.

use std::collections::HashMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use anyhow::{Context, Result};

use crate::accel::Accel;
use crate::cache::Cache;
use crate::hardware::{Hardware, qemu_version};
use crate::image::Image;
use crate::machine::Machine;
use crate::rundir;
use crate::template::Template;

/// Everything machines are started from. Cheap to clone; keeps its image from being removed.
#[derive(Debug, Clone)]
pub struct Lab {
    inner: Arc<Inner>,
}

#[derive(Debug)]
struct Inner {
    cache: Cache,
    image: Image,
    accel: Accel,
    qemu_version: String,
    templates: Mutex<HashMap<Hardware, Arc<Template>>>,
}

impl Lab {
    /// Finds the image of this binary or builds it, which takes minutes and needs root, and
    /// decides between KVM and emulation. Says what it builds on stderr.
    pub fn open() -> Result<Self> {
        let cache = Cache::open()?;
        rundir::sweep(&cache).context("remove the leftovers of earlier machines")?;
        let qemu_version = qemu_version()?;
        let image = Image::find_or_build(&cache)?;
        let accel = Accel::choose(&cache, &image)?;
        let templates = Mutex::default();
        let inner = Inner {
            cache,
            image,
            accel,
            qemu_version,
            templates,
        };
        Ok(Self {
            inner: Arc::new(inner),
        })
    }

    /// A machine to be declared; its name appears in errors and in its run directory.
    pub fn machine(&self, name: &str) -> Machine {
        Machine::new(self.clone(), name)
    }

    /// How guests run.
    pub fn accel(&self) -> Accel {
        self.inner.accel
    }

    /// The directory of the image: `vmlinux`, `initramfs`, `root.img`, `templates/`.
    pub fn image_dir(&self) -> PathBuf {
        self.inner.image.dir().to_owned()
    }

    pub(crate) fn cache(&self) -> &Cache {
        &self.inner.cache
    }

    pub(crate) fn image(&self) -> &Image {
        &self.inner.image
    }

    /// The template of this hardware, found or built by the first who asks.
    pub(crate) fn template(&self, hardware: Hardware) -> Result<Arc<Template>> {
        let mut templates = self
            .inner
            .templates
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        if let Some(template) = templates.get(&hardware) {
            return Ok(Arc::clone(template));
        }
        let template = Arc::new(Template::find_or_build(
            &self.inner.image,
            hardware,
            &self.inner.qemu_version,
        )?);
        templates.insert(hardware, Arc::clone(&template));
        Ok(template)
    }
}
