//! Metrics that other programs write into `*.prom` files of the directory `textfile.directory`, such as SMART and IPMI values or the
//! state of a batch system.
//!
//! What is wrong with a file makes neither the other files nor the collector fail, as in node_exporter: it is logged, and
//! `node_textfile_scrape_error` is 1.

mod merge;

use std::collections::BTreeMap;
use std::io;
use std::path::{Path, PathBuf};
use std::time::SystemTime;

use crate::collector::file_reader::read_regular;
use crate::collector::host_files::HostFiles;
use crate::collector::node::Collector;
use crate::collector::node::textfile::merge::Merged;
use crate::model::node::Measurement;
use crate::model::node::textfile::{File, Textfile};
use crate::procfs::prometheus_text::{self, Family, MAX_SAMPLES};
use crate::util::error::reason;

/// A file has a few kilobytes; a larger one is not meant for Prometheus.
const MAX_FILE_BYTES: u64 = 1 << 20;

/// Each program writes one file.
const MAX_FILES: usize = 256;

/// Entries of the directory that are listed, whatever their names.
const MAX_ENTRIES: usize = 4096;

/// All files together. What they contain is kept in memory, and their samples are rendered anew with each sample of the agent.
const MAX_ALL_BYTES: usize = 8 << 20;

pub(super) struct TextfileCollector {
    /// `None`: there is nothing to read.
    directory: Option<PathBuf>,
    /// Files of the last run with what is wrong with them. Logged when it changes.
    problems: Problems,
}

struct ParsedFile {
    modified: SystemTime,
    bytes: usize,
    families: Vec<Family>,
}

impl TextfileCollector {
    pub fn new(directory: Option<PathBuf>) -> Self {
        Self { directory, problems: BTreeMap::new() }
    }
}

impl Collector for TextfileCollector {
    fn collect(&mut self, _: &mut HostFiles) -> Option<Measurement> {
        let mut textfile = Textfile::default();
        let mut problems = BTreeMap::new();
        if let Some(directory) = self.directory.clone() {
            match list(&directory) {
                Ok(paths) => read_all(paths, &mut textfile, &mut problems),
                Err(error) => {
                    problems.insert(directory, reason(&error));
                }
            }
        }
        textfile.has_error = !problems.is_empty();
        self.log(problems);
        Some(Measurement::Textfile(textfile))
    }
}

impl TextfileCollector {
    fn log(&mut self, problems: Problems) {
        for (path, why) in &problems {
            if self.problems.get(path) != Some(why) {
                log::warn!("collector textfile: {}: {why}", path.display());
            }
        }
        for path in self.problems.keys().filter(|path| !problems.contains_key(*path)) {
            log::info!("collector textfile: {} recovered", path.display());
        }
        self.problems = problems;
    }
}

/// What is wrong with a file, or with the directory.
type Problems = BTreeMap<PathBuf, String>;

fn read_all(mut paths: Vec<PathBuf>, textfile: &mut Textfile, problems: &mut Problems) {
    for path in paths.split_off(paths.len().min(MAX_FILES)) {
        textfile.truncated += 1;
        problems.insert(path, format!("there are more than {MAX_FILES} files"));
    }
    let (mut merged, mut bytes) = (Merged::default(), 0);
    for path in paths {
        let file = match read(&path) {
            Ok(file) => file,
            Err(why) => {
                problems.insert(path, why);
                continue;
            }
        };
        let samples: usize = file.families.iter().map(|family| family.samples.len()).sum();
        if merged.len() + samples > MAX_SAMPLES || bytes + file.bytes > MAX_ALL_BYTES {
            textfile.truncated += 1;
            let why = format!("all files have over {MAX_SAMPLES} samples or {MAX_ALL_BYTES} bytes");
            problems.insert(path, why);
            continue;
        }
        bytes += file.bytes;
        let shown = path.to_string_lossy().into_owned();
        let dropped = merged.add(&shown, file.families);
        if let [first, others @ ..] = &dropped[..] {
            let others = if others.is_empty() { "" } else { "; other families too" };
            problems.insert(path, format!("{first}{others}"));
        }
        textfile.files.push(File { path: shown, modified_nanoseconds: nanoseconds(file.modified) });
    }
    textfile.families = merged.finish();
}

/// The files of the directory whose names end in `.prom`, sorted.
fn list(directory: &Path) -> io::Result<Vec<PathBuf>> {
    let entries = std::fs::read_dir(directory)?.take(MAX_ENTRIES);
    let paths = entries.map(|entry| Ok(entry?.path()));
    let paths: io::Result<Vec<PathBuf>> = paths.collect();
    let mut paths = paths?;
    paths.retain(|path| path.as_os_str().as_encoded_bytes().ends_with(b".prom"));
    paths.sort();
    Ok(paths)
}

fn read(path: &Path) -> Result<ParsedFile, String> {
    let (text, modified) = read_regular(path, MAX_FILE_BYTES).map_err(|error| reason(&error))?;
    let families = prometheus_text::parse(&text).map_err(|error| error.to_string())?;
    Ok(ParsedFile { modified, bytes: text.len(), families })
}

fn nanoseconds(time: SystemTime) -> u64 {
    let since_1970 = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    u64::try_from(since_1970.as_nanos()).unwrap_or_default()
}
