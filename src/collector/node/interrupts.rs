//! Interrupts of each kind. Only sums over all CPUs are kept: 2,000 lines of 224 CPUs would be 448,000 series.

use crate::collector::host_files::HostFiles;
use crate::model::node::Measurement;
use crate::model::node::interrupts::Interrupts;
use crate::procfs::interrupts::{Interrupt, cpu_columns, parse_line};

/// A network card has an interrupt for each of its queues, but most of them never occur. Those with a name are a few dozen.
const MAX_NUMBERED: usize = 1024;

pub fn collect(host: &mut HostFiles) -> Option<Measurement> {
    let mut interrupts = Interrupts::default();
    let (mut cpus, mut numbered) = (0, 0);
    host.parse_lines(&host.proc("interrupts"), |at, line| {
        match at {
            1 => cpus = cpu_columns(line),
            _ => add(&mut interrupts, &mut numbered, parse_line(at, line, cpus)?),
        }
        Ok(())
    })?;
    Some(Measurement::Interrupts(interrupts))
}

fn add(interrupts: &mut Interrupts, numbered: &mut usize, found: Option<Interrupt>) {
    let Some(interrupt) = found.filter(|interrupt| interrupt.count > 0) else { return };
    if interrupt.is_numbered() {
        if *numbered == MAX_NUMBERED {
            interrupts.truncated += 1;
            return;
        }
        *numbered += 1;
    }
    interrupts.each.push(interrupt);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keeps_named_interrupts_when_there_are_too_many() {
        let (mut interrupts, mut numbered) = (Interrupts::default(), 0);
        let interrupt = |kind: String, count| {
            Some(Interrupt { kind, info: "a".into(), devices: String::new(), count })
        };
        for number in 0..MAX_NUMBERED + 5 {
            add(&mut interrupts, &mut numbered, interrupt(number.to_string(), 1));
            add(&mut interrupts, &mut numbered, interrupt(format!("{number}"), 0));
        }
        add(&mut interrupts, &mut numbered, interrupt("LOC".into(), 7));
        assert_eq!((interrupts.each.len(), interrupts.truncated), (MAX_NUMBERED + 1, 5));
        assert_eq!(interrupts.each.last().unwrap().kind, "LOC");
    }
}
