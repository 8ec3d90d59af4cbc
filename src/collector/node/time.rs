//! The clock source that the kernel uses, from `/sys/devices/system/clocksource`, and the time zone. The kernel leaves `tsc` when that
//! is unstable; reading the time then takes a system call.

use std::path::Path;

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::time::{ClockSource, Time};
use crate::sys;
use crate::util::logger::unix_seconds;

/// The kernel has one.
const MAX_CLOCK_SOURCES: usize = 16;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let directory = host.sys("devices/system/clocksource");
    let mut numbers = host.numbers(&directory, "clocksource");
    numbers.truncate(MAX_CLOCK_SOURCES);
    let read = |number| {
        let path = directory.join(format!("clocksource{number}"));
        let available = host.line(&path.join("available_clocksource")).unwrap_or_default();
        ClockSource {
            number,
            current: host.line(&path.join("current_clocksource")),
            available: available.split_ascii_whitespace().map(str::to_owned).collect(),
        }
    };
    let clock_sources = numbers.into_iter().map(read).collect();
    // In a container, this process has the time zone of the container.
    let is_host = host.root("") == Path::new("/");
    let zone = if is_host { sys::time_zone(unix_seconds()) } else { None };
    let time = Time { clock_sources, zone };
    (time != Time::default()).then_some(Measurement::Time(time))
}
