//! Settings of the collectors.

use std::path::PathBuf;

use crate::collector::disabled::DisabledCollectors;
use crate::config::layers::Settings;
use crate::util::error::Error;

/// `collectors.*`, and the settings of single collectors.
#[derive(Debug, Clone, Default)]
pub struct CollectorsConfig {
    /// `collectors.disable`.
    pub disabled: DisabledCollectors,
    /// `textfile.directory`; `None`: no files of other programs are read.
    pub textfile_directory: Option<PathBuf>,
}

impl CollectorsConfig {
    pub(super) fn new(settings: &Settings) -> Result<Self, Error> {
        const DISABLE: &str = "collectors.disable";
        let disabled = DisabledCollectors::new(settings.list(DISABLE));
        Ok(Self {
            disabled: disabled.map_err(|why| settings.invalid(DISABLE, &why))?,
            textfile_directory: settings.parsed("textfile.directory"),
        })
    }
}
