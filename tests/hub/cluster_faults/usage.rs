//! Memory, descriptors and threads of the first hub, which runs all the time, over time.

use super::faults::Cluster;

/// Allowed growth from the first third to the last, besides a tenth: what is open differs from moment to moment.
const ROOM: [f64; 3] = [8192.0, 30.0, 3.0];
const NAMES: [&str; 3] = ["private memory (KB)", "descriptors", "threads"];

#[derive(Default)]
pub struct Usages(Vec<[f64; 3]>);

impl Usages {
    pub fn record(&mut self, cluster: &Cluster) {
        if !cluster.members[0].is_up() {
            return;
        }
        let pid = cluster.members[0].hub().pid();
        let status = std::fs::read_to_string(format!("/proc/{pid}/status")).unwrap();
        let number = |name: &str| {
            let line = status.lines().find(|line| line.starts_with(name)).unwrap();
            line.split_whitespace().nth(1).unwrap().parse().unwrap()
        };
        let descriptors = std::fs::read_dir(format!("/proc/{pid}/fd")).unwrap().count() as f64;
        self.0.push([number("RssAnon:"), descriptors, number("Threads:")]);
    }

    /// The last third uses no more than the first.
    pub fn judge(&self) {
        let third = self.0.len() / 3;
        let (first, last) = (&self.0[..third], &self.0[self.0.len() - third..]);
        for (at, name) in NAMES.iter().enumerate() {
            let [early, late] = [first, last].map(|part| median(part.iter().map(|one| one[at])));
            let most = self.0.iter().map(|one| one[at]).fold(0.0, f64::max);
            println!("{name}: {early} in the first third, {late} in the last, at most {most}");
            assert!(late <= early * 1.1 + ROOM[at], "{name}: {early} at first, {late} at last");
        }
    }
}

fn median(values: impl Iterator<Item = f64>) -> f64 {
    let mut values: Vec<f64> = values.collect();
    values.sort_by(f64::total_cmp);
    values[values.len() / 2]
}
