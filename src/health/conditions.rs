//! What one sample shows to be wrong.

use crate::model::finding::{Action, Component, Finding};
use crate::model::health_problem::Severity;

/// A finding, once its condition has lasted.
#[derive(Debug, Clone, PartialEq)]
pub struct Condition {
    pub finding: Finding,
    /// Seconds after which it is shown; 0: at once.
    pub hold: u64,
}

impl Condition {
    pub fn new(
        component: Component,
        severity: Severity,
        rule: &str,
        summary: impl Into<String>,
    ) -> Self {
        Self { finding: Finding::new(component, severity, rule, summary), hold: 0 }
    }

    pub fn of(self, device: impl Into<String>) -> Self {
        Self { finding: self.finding.of(device), ..self }
    }

    pub fn action(self, action: Action) -> Self {
        Self { finding: self.finding.action(action), ..self }
    }

    pub fn restart(self, service: &str) -> Self {
        Self { finding: self.finding.restart(service), ..self }
    }

    pub fn evidence(self, text: impl Into<String>) -> Self {
        Self { finding: self.finding.evidence(None, text), ..self }
    }

    pub fn held_for(self, hold: u64) -> Self {
        Self { hold, ..self }
    }
}

pub fn critical(component: Component, rule: &str, summary: impl Into<String>) -> Condition {
    Condition::new(component, Severity::Critical, rule, summary)
}

pub fn warning(component: Component, rule: &str, summary: impl Into<String>) -> Condition {
    Condition::new(component, Severity::Warning, rule, summary)
}

/// `3 NVLinks`.
pub fn count_of(count: u64, what: &str) -> String {
    format!("{count} {what}{}", if count == 1 { "" } else { "s" })
}

pub fn with_message(text: impl Into<String>, message: Option<&str>) -> String {
    let text = text.into();
    match message {
        Some(message) => format!("{text}: {message}"),
        None => text,
    }
}
