//! A finding of the health check: what is wrong with this node, how that is known, and what to do. The serialized names are those of
//! `/health`.

use serde::{Deserialize, Serialize};

use crate::model::health_problem::Severity;

/// Declares values with their names in JSON and in labels.
macro_rules! names {
    ($(#[$enum_doc:meta])* $type:ident { $($(#[$doc:meta])* $value:ident = $name:literal,)* }) => {
        $(#[$enum_doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
        pub enum $type {
            $($(#[$doc])* #[serde(rename = $name)] $value,)*
        }

        impl $type {
            pub const ALL: &[Self] = &[$(Self::$value,)*];

            pub fn name(self) -> &'static str {
                match self {
                    $(Self::$value => $name,)*
                }
            }
        }
    };
}

names! {
    /// The part of the node that a finding is about.
    Component {
        Gpu = "gpu",
        Driver = "driver",
        Fabric = "fabric",
        NvLink = "nvlink",
        Infiniband = "infiniband",
        Network = "network",
        Disk = "disk",
        FileSystem = "filesystem",
        Memory = "memory",
        Processor = "processor",
        Clock = "clock",
        Service = "service",
        Application = "application",
        Upstream = "upstream",
        Kernel = "kernel",
    }
}

names! {
    /// What an operator should do, the least drastic first.
    Action {
        None = "none",
        RestartApplication = "restart_application",
        RestartService = "restart_service",
        ResetGpu = "reset_gpu",
        /// Take the node out of service when its jobs have ended, and reset it.
        Drain = "drain",
        Reboot = "reboot",
        InspectHardware = "inspect_hardware",
    }
}

/// A measured value, or a line of the kernel log.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Evidence {
    /// Unix seconds; `None`: now.
    pub time: Option<u64>,
    pub text: String,
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Finding {
    /// Stays the same while the finding lasts. Lower-case letters, digits, `-`, `_` and `.`.
    pub id: String,
    pub component: Component,
    /// `GPU 5`, `/data`, `mlx5_0 port 1`; `None`: the component has no parts.
    pub device: Option<String>,
    pub severity: Severity,
    /// What is wrong, without the device.
    pub summary: String,
    pub evidence: Vec<Evidence>,
    pub action: Action,
    /// The unit to restart, with [`Action::RestartService`].
    pub service: Option<String>,
    /// Unix seconds.
    pub since: u64,
    /// How many reboots have not ended it.
    pub reboots: u32,
    /// When an operator has acknowledged it, in Unix seconds. Then it does not count any more.
    pub acknowledged: Option<u64>,
}

impl Finding {
    pub fn new(
        component: Component,
        severity: Severity,
        rule: &str,
        summary: impl Into<String>,
    ) -> Self {
        Self {
            id: format!("{}-{rule}", component.name()),
            component,
            device: None,
            severity,
            summary: summary.into(),
            evidence: Vec::new(),
            action: Action::None,
            service: None,
            since: 0,
            reboots: 0,
            acknowledged: None,
        }
    }

    /// Names the device, also in the id.
    pub fn of(self, device: impl Into<String>) -> Self {
        let device = device.into();
        let (component, rule) = self.id.split_once('-').unwrap_or((&self.id, ""));
        let id = format!("{component}-{rule}-{}", slug(&device));
        Self { id, device: Some(device), ..self }
    }

    /// The part of the id between component and device.
    pub fn rule(&self) -> &str {
        let rule = self.id.split_once('-').map_or("", |(_, rule)| rule);
        match &self.device {
            Some(_) => rule.rsplit_once('-').map_or(rule, |(rule, _)| rule),
            None => rule,
        }
    }

    pub fn action(self, action: Action) -> Self {
        Self { action, ..self }
    }

    pub fn restart(self, service: &str) -> Self {
        Self { service: Some(service.to_owned()), ..self }.action(Action::RestartService)
    }

    pub fn evidence(mut self, time: Option<u64>, text: impl Into<String>) -> Self {
        self.evidence.push(Evidence { time, text: text.into() });
        self
    }

    pub fn is_open(&self) -> bool {
        self.acknowledged.is_none()
    }

    /// `GPU 5: has fallen off the bus`.
    pub fn text(&self) -> String {
        match &self.device {
            Some(device) => format!("{device}: {}", self.summary),
            None => self.summary.clone(),
        }
    }
}

/// What an id can contain. Different devices may share one; a count keeps them apart, see the health check.
fn slug(device: &str) -> String {
    let keep = |char: char| match char {
        'a'..='z' | '0'..='9' | '.' => char,
        'A'..='Z' => char.to_ascii_lowercase(),
        _ => '_',
    };
    device.chars().take(64).map(keep).collect()
}

/// What `/health` returns.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct HealthReport {
    pub status: HealthStatus,
    /// Unix seconds.
    pub checked: u64,
    /// The worst first, those that are acknowledged last.
    pub findings: Vec<Finding>,
}

names! {
    /// The verdict on a node.
    HealthStatus {
        Ok = "ok",
        Warning = "warning",
        Critical = "critical",
        /// The agent has not checked yet.
        Unknown = "unknown",
    }
}

impl HealthReport {
    pub fn new(checked: u64, mut findings: Vec<Finding>) -> Self {
        findings.sort_by(|a, b| {
            let rank = |it: &Finding| (!it.is_open(), it.severity, std::cmp::Reverse(it.action));
            rank(a).cmp(&rank(b)).then_with(|| a.id.cmp(&b.id))
        });
        let worst = findings.iter().filter(|it| it.is_open()).map(|it| it.severity).min();
        let status = match worst {
            None => HealthStatus::Ok,
            Some(Severity::Warning) => HealthStatus::Warning,
            Some(Severity::Critical) => HealthStatus::Critical,
        };
        Self { status, checked, findings }
    }

    pub fn unknown() -> Self {
        Self { status: HealthStatus::Unknown, checked: 0, findings: Vec::new() }
    }

    pub fn open(&self) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(|finding| finding.is_open())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn finding(severity: Severity, device: &str) -> Finding {
        Finding::new(Component::Gpu, severity, "lost", "is lost").of(device)
    }

    #[test]
    fn id_is_safe_in_a_shell_and_a_url() {
        let odd = finding(Severity::Warning, "GPU 5; rm -rf /\u{e9}");
        assert_eq!(odd.id, "gpu-lost-gpu_5__rm__rf___");
        assert_eq!(odd.text(), "GPU 5; rm -rf /\u{e9}: is lost");
    }

    #[test]
    fn worst_finding_is_first_and_gives_the_status() {
        let acknowledged =
            Finding { acknowledged: Some(1), ..finding(Severity::Critical, "GPU 0") };
        let report = HealthReport::new(
            9,
            vec![
                acknowledged.clone(),
                finding(Severity::Warning, "GPU 1"),
                finding(Severity::Critical, "GPU 2"),
                finding(Severity::Critical, "GPU 3").action(Action::Reboot),
            ],
        );
        let devices: Vec<_> =
            report.findings.iter().filter_map(|it| it.device.as_deref()).collect();
        assert_eq!(devices, ["GPU 3", "GPU 2", "GPU 1", "GPU 0"]);
        assert_eq!((report.status, report.open().count()), (HealthStatus::Critical, 3));
        assert_eq!(HealthReport::new(9, vec![acknowledged]).status, HealthStatus::Ok);
    }
}
