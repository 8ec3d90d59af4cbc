//! Memory errors, from `/sys/devices/system/edac/mc` (kernel `Documentation/ABI/testing/sysfs-devices-edac`). The directory does not
//! exist without a driver for the memory controller, as in virtual machines.
//!
//! Kernels without `CONFIG_EDAC_LEGACY_SYSFS` have no directories `csrow*`, only `dimm*` or `rank*`.

use std::path::{Path, PathBuf};

use crate::collector::host_files::HostFiles;
use crate::collector::node::limit;
use crate::model::node::Measurement;
use crate::model::node::edac::{Channel, Controller, Edac, ErrorCounts, Row};

/// Two of the largest processors have 24.
const MAX_CONTROLLERS: usize = 64;
/// Rows of a controller, channels of a row, and modules of a controller: the kernel's drivers have at most 16, 12 and 24.
const MAX_PARTS: usize = 64;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("devices/system/edac/mc");
    let mut edac = Edac::default();
    let mut numbers = host.numbers(&directory, "mc");
    limit(&mut numbers, MAX_CONTROLLERS, &mut edac.truncated);
    for number in numbers {
        let path = directory.join(format!("mc{number}"));
        let controller = read_controller(host, &path, number, &mut edac.truncated);
        edac.controllers.push(controller);
    }
    (!edac.controllers.is_empty()).then_some(Measurement::Edac(edac))
}

fn read_controller(
    host: &mut HostFiles,
    path: &Path,
    number: u64,
    truncated: &mut usize,
) -> Controller {
    let (mut rows, mut channels) = (Vec::new(), Vec::new());
    let mut numbers = host.numbers(path, "csrow");
    limit(&mut numbers, MAX_PARTS, truncated);
    for number in numbers {
        let row = path.join(format!("csrow{number}"));
        rows.push(Row { number, errors: errors(host, &row, "ce_count", "ue_count") });
        channels.extend(read_channels(host, &row, number, truncated));
    }
    if rows.is_empty() {
        channels = read_modules(host, path, truncated);
    }
    Controller {
        number,
        errors: errors(host, path, "ce_count", "ue_count"),
        without_row: errors(host, path, "ce_noinfo_count", "ue_noinfo_count"),
        rows,
        channels,
    }
}

fn errors(
    host: &mut HostFiles,
    directory: &Path,
    correctable: &str,
    uncorrectable: &str,
) -> ErrorCounts {
    ErrorCounts {
        correctable: host.number(&directory.join(correctable)),
        uncorrectable: host.number(&directory.join(uncorrectable)),
    }
}

/// Files `ch0_ce_count`, `ch0_ue_count` and `ch0_dimm_label`.
fn read_channels(
    host: &mut HostFiles,
    row: &Path,
    number: u64,
    truncated: &mut usize,
) -> Vec<Channel> {
    let names = host.names(row, "ch");
    let channel = |name: &String| {
        let channel = name.strip_prefix("ch")?.strip_suffix("_ce_count")?;
        channel.bytes().all(|byte| byte.is_ascii_digit()).then(|| channel.to_owned())
    };
    let mut channels: Vec<String> = names.iter().filter_map(channel).collect();
    limit(&mut channels, MAX_PARTS, truncated);
    let read = |channel: String| {
        let (ce, ue) = (format!("ch{channel}_ce_count"), format!("ch{channel}_ue_count"));
        Channel {
            row: number.to_string(),
            dimm_label: host.line(&row.join(format!("ch{channel}_dimm_label"))),
            errors: errors(host, row, &ce, &ue),
            channel,
        }
    };
    channels.into_iter().map(read).collect()
}

/// Directories `dimm0`, or `rank0` if the controller counts by rank.
fn read_modules(host: &mut HostFiles, controller: &Path, truncated: &mut usize) -> Vec<Channel> {
    let mut paths: Vec<PathBuf> = Vec::new();
    for prefix in ["dimm", "rank"] {
        let numbers = host.numbers(controller, prefix);
        paths.extend(numbers.iter().map(|number| controller.join(format!("{prefix}{number}"))));
    }
    limit(&mut paths, MAX_PARTS, truncated);
    let read = |path: PathBuf| {
        let location = host.line(&path.join("dimm_location")).unwrap_or_default();
        let directory = || path.file_name().map(|name| name.to_string_lossy().into_owned());
        Channel {
            // Several modules may share channel and label, and Prometheus drops a scrape's duplicate series.
            row: location_part(&location, "csrow").or_else(directory).unwrap_or_default(),
            channel: location_part(&location, "channel").unwrap_or_else(|| "unknown".to_owned()),
            dimm_label: host.line(&path.join("dimm_label")),
            errors: errors(host, &path, "dimm_ce_count", "dimm_ue_count"),
        }
    };
    paths.into_iter().map(read).collect()
}

/// The number after a name in `csrow 0 channel 1`; other drivers print `memory 3` or `mc 0 channel 1 slot 0`.
fn location_part(location: &str, name: &str) -> Option<String> {
    let mut words = location.split_ascii_whitespace();
    words.find(|word| *word == name)?;
    words.next().map(str::to_owned)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_parts_of_a_location() {
        assert_eq!(location_part("csrow 2 channel 1 ", "csrow").as_deref(), Some("2"));
        assert_eq!(location_part("channel 1 slot 0 ", "channel").as_deref(), Some("1"));
        assert_eq!(location_part("channel 1 slot 0 ", "csrow"), None);
        assert_eq!(location_part("csrow", "csrow"), None);
    }
}
