//! What a soak has shown, for docs/soak.md.

use std::fmt::Write;
use std::time::Duration;

use hm_agent::util::logger::{unix_seconds, utc};

use super::fault_log::Story;
use super::resource_usage::{COLUMNS, Sample, quarters, spread};
use super::{GROWN_KB, KEPT_KB};

pub struct Report<'a> {
    pub seed: u64,
    pub time: Duration,
    pub story: &'a Story,
}

impl Report<'_> {
    pub fn text(&self, rests: &[(&str, Sample)], warm_up: &[Sample], loaded: &[Sample]) -> String {
        let mut text = String::from("# A soak\n\n");
        let minutes = self.time.as_secs_f64() / 60.0;
        let wrongs = self.story.wrongs();
        let verdict = if wrongs.is_empty() { "All is as it should be." } else { "**It failed.**" };
        let (date, machine) = (utc(unix_seconds()), machine());
        let minutes_of_warm_up = warm_up.last().map_or(0.0, |last| last.at.as_secs_f64() / 60.0);
        _ = writeln!(
            text,
            "`./tests/soak {}s`, {date}, HM_SEED={}, {machine}: {minutes_of_warm_up:.0} min to warm up with every fault once, \
             then {minutes:.0} min. {verdict}\n",
            self.time.as_secs(),
            self.seed
        );
        for wrong in wrongs {
            _ = writeln!(text, "- wrong: {wrong}");
        }
        self.resources(&mut text, rests, warm_up, loaded);
        self.faults(&mut text);
        text
    }

    fn resources(
        &self,
        text: &mut String,
        rests: &[(&str, Sample)],
        warm_up: &[Sample],
        loaded: &[Sample],
    ) {
        _ = writeln!(text, "\n## What the agent took\n\nSmallest / middle / largest.\n");
        let names = COLUMNS.map(|(name, _)| name).join(" | ");
        _ = writeln!(text, "| | {names} |\n|{}", " --- |".repeat(COLUMNS.len() + 1));
        let mut row = |name: &str, samples: &[Sample]| {
            let cell = |(_, value): &super::resource_usage::Column| {
                let [least, middle, most] = spread(samples.iter().map(value).collect());
                match samples.len() {
                    1 => format!("{middle:.0}"),
                    _ => format!("{least:.0} / {middle:.0} / {most:.0}"),
                }
            };
            let cells: Vec<String> = COLUMNS.iter().map(cell).collect();
            _ = writeln!(text, "| {name} | {} |", cells.join(" | "));
        };
        row("warm-up", warm_up);
        row(rests[0].0, &[rests[0].1]);
        for (number, quarter) in (1..).zip(quarters(loaded)) {
            row(&format!("quarter {number}"), &quarter);
        }
        row(rests[1].0, &[rests[1].1]);
        _ = writeln!(
            text,
            "\nAt rest, threads, descriptors and children must be the same, and its own memory at most {KEPT_KB} KB more. Of the \
             last quarter the middles, while subscribers were there, may be a twentieth and {GROWN_KB} KB above those of the second."
        );
    }

    fn faults(&self, text: &mut String) {
        _ = writeln!(
            text,
            "\n## What happened to it\n\n| fault | times | seconds |\n| --- | ---: | ---: |"
        );
        for (name, (count, time)) in self.story.faults() {
            _ = writeln!(text, "| {name} | {count} | {:.0} |", time.as_secs_f64());
        }
        _ = writeln!(text, "\n## What it did\n\n| | |\n| --- | ---: |");
        let mut counts = self.story.counts();
        for name in ["updates missed", "reports that came twice"] {
            counts.entry(name).or_default();
        }
        for (name, count) in counts {
            _ = writeln!(text, "| {name} | {count} |");
        }
    }
}

/// What it ran on.
fn machine() -> String {
    let read = |file: &str| std::fs::read_to_string(file).unwrap_or_default();
    let cpus = read("/proc/cpuinfo");
    let model = cpus.lines().find_map(|line| line.strip_prefix("model name")?.split_once(": "));
    let model = model.map_or("processors", |(_, model)| model);
    let count = cpus.lines().filter(|line| line.starts_with("processor")).count();
    let kernel = read("/proc/sys/kernel/osrelease");
    format!("{count} × {model}, Linux {}", kernel.trim())
}
