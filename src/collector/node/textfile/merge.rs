//! Joins the families of several files, so that no series and no family occurs twice: Prometheus rejects a scrape with such.

use std::collections::{BTreeMap, HashSet};

use crate::procfs::prometheus_text::{Family, Sample};

#[derive(Default)]
pub(super) struct Merged {
    by_name: BTreeMap<String, MergedFamily>,
    /// Names and labels of the samples.
    series: HashSet<String>,
}

struct MergedFamily {
    family: Family,
    files: Vec<String>,
}

impl Merged {
    pub fn len(&self) -> usize {
        self.series.len()
    }

    /// Adds the families of a file. Returns why some of them are left out.
    pub fn add(&mut self, file: &str, families: Vec<Family>) -> Vec<String> {
        families.into_iter().filter_map(|family| self.add_family(file, family).err()).collect()
    }

    /// Returns the families in the order of their names.
    pub fn finish(self) -> Vec<Family> {
        let with_help = |MergedFamily { mut family, files }: MergedFamily| {
            let default = || format!("Metric read from {}", files.join(", "));
            family.help.get_or_insert_with(default);
            family
        };
        let with_samples =
            self.by_name.into_values().filter(|merged| !merged.family.samples.is_empty());
        with_samples.map(with_help).collect()
    }

    fn add_family(&mut self, file: &str, family: Family) -> Result<(), String> {
        let Family { name, family_type, help, samples } = family;
        let merged = self.by_name.entry(name.clone()).or_insert_with(|| {
            let family =
                Family { name: name.clone(), family_type, help: None, samples: Vec::new() };
            MergedFamily { family, files: Vec::new() }
        });
        let first = &mut merged.family;
        if first.family_type != family_type {
            return Err(format!("{name} has another TYPE in {}", merged.files.join(", ")));
        }
        if help.is_some() && first.help.is_some() && first.help != help {
            return Err(format!("{name} has another HELP in {}", merged.files.join(", ")));
        }
        first.help = first.help.take().or(help);
        merged.files.push(file.to_owned());
        let count = samples.len() + first.samples.len();
        let new = samples.into_iter().filter(|sample| self.series.insert(key(&name, sample)));
        first.samples.extend(new);
        match count - first.samples.len() {
            0 => Ok(()),
            dropped => Err(format!("{dropped} series of {name} exist already")),
        }
    }
}

/// What identifies a series. A label without value is like none.
fn key(family: &str, sample: &Sample) -> String {
    let labels = sample.labels.iter().filter(|(_, value)| !value.is_empty());
    // No label contains a NUL in its name, and its length precedes each value.
    let labels = labels.map(|(name, value)| format!("\0{name}\0{}\0{value}", value.len()));
    format!("{family}{}{}", sample.suffix, labels.collect::<String>())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::procfs::prometheus_text::parse;

    fn merge(files: &[(&str, &str)]) -> (Vec<String>, Vec<String>) {
        let mut merged = Merged::default();
        let add = |(file, text): &(&str, &str)| merged.add(file, parse(text.as_bytes()).unwrap());
        let errors = files.iter().flat_map(add).collect();
        let text = |family: Family| {
            let values: Vec<_> = family.samples.iter().map(|sample| &*sample.value).collect();
            format!("{} ({}): {}", family.name, family.help.unwrap(), values.join(" "))
        };
        (merged.finish().into_iter().map(text).collect(), errors)
    }

    #[test]
    fn joins_families_of_several_files() {
        let files = [
            ("/a.prom", "y 1\nx{l=\"1\"} 2\n"),
            ("/b.prom", "# HELP x Help.\nx{l=\"2\"} 3\ny{l=\"1\"} 4\n"),
            ("/c.prom", "x{l=\"3\"} 5\n"),
        ];
        let (families, errors) = merge(&files);
        assert_eq!(families, ["x (Help.): 2 3 5", "y (Metric read from /a.prom, /b.prom): 1 4"]);
        assert!(errors.is_empty());
    }

    #[test]
    fn drops_family_with_another_help_or_type() {
        let files = [
            ("/a.prom", "# HELP x One.\n# TYPE x gauge\nx 1\n"),
            ("/b.prom", "# HELP x Two.\n# TYPE x gauge\nx{l=\"1\"} 2\ny 2\n"),
            ("/c.prom", "# TYPE x counter\nx{l=\"2\"} 3\n"),
        ];
        let (families, errors) = merge(&files);
        assert_eq!(families, ["x (One.): 1", "y (Metric read from /b.prom): 2"]);
        assert_eq!(errors, ["x has another HELP in /a.prom", "x has another TYPE in /a.prom"]);
    }

    #[test]
    fn drops_series_that_exist_already() {
        let files = [
            ("/a.prom", "x{a=\"1\",b=\"\"} 1\nx{a=\"1\"} 2\n"),
            ("/b.prom", "x{a=\"1\"} 3\nx{a=\"2\"} 4\n# TYPE h summary\nh_sum 5\n"),
            ("/c.prom", "h_sum 6\n"),
        ];
        let (families, errors) = merge(&files);
        assert_eq!(families[1], "x (Metric read from /a.prom, /b.prom): 1 4");
        assert_eq!(
            errors,
            [
                "1 series of x exist already",
                "1 series of x exist already",
                "1 series of h_sum exist already"
            ]
        );
    }
}
