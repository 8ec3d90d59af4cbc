//! Findings of the health check.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::finding::{Action, Component, Finding, HealthReport};
use crate::model::health_problem::Severity;

/// More findings with an action are not exposed.
const MAX_ACTIONS: usize = 200;

pub(super) fn encode(encoder: &mut Encoder, report: &HealthReport, truncation: &mut Truncation) {
    encoder.gauge(
        "hm_agent_health",
        "Number of findings that are not acknowledged, by component and severity.",
    );
    for component in Component::ALL {
        for severity in [Severity::Critical, Severity::Warning] {
            let is_counted = |it: &&Finding| it.component == *component && it.severity == severity;
            let labels = labels(&[("component", component.name()), ("severity", severity.name())]);
            encoder.sample(&labels, report.open().filter(is_counted).count());
        }
    }
    encoder.gauge(
        "hm_agent_suggested_action",
        "What an operator should do: 1 for each finding that is not acknowledged and has an action.",
    );
    let with_action: Vec<&Finding> =
        report.open().filter(|finding| finding.action != Action::None).collect();
    for finding in truncation.limit("findings", &with_action, MAX_ACTIONS) {
        encoder.sample(
            &labels(&[
                ("action", finding.action.name()),
                ("component", finding.component.name()),
                ("id", &finding.id),
            ]),
            1_u64,
        );
    }
}
