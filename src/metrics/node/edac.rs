//! Memory errors: the collector edac.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::edac::{Channel, Controller, Edac, ErrorCounts};

type Kind = (&'static str, fn(&ErrorCounts) -> Option<u64>);

const KINDS: [Kind; 2] = [
    ("correctable", |errors| errors.correctable),
    ("uncorrectable", |errors| errors.uncorrectable),
];

type Samples = Vec<(String, ErrorCounts)>;

pub(super) fn encode(encoder: &mut Encoder, edac: &Edac, truncation: &mut Truncation) {
    truncation.add("edac", edac.truncated);
    let of_each = |samples: fn(&Controller) -> Samples| -> Samples {
        edac.controllers.iter().flat_map(samples).collect()
    };
    let families: [(&str, &'static str, Samples); 3] = [
        (
            "",
            "Number of memory errors that the controller counted.",
            of_each(|controller| vec![(controller_label(controller), controller.errors)]),
        ),
        ("csrow_", "Number of memory errors of the chip-select row.", of_each(rows)),
        ("channel_", "Number of memory errors of the memory module.", of_each(channels)),
    ];
    for (part, help, samples) in families {
        for (kind, value) in KINDS {
            encoder.counter(&format!("node_edac_{part}{kind}_errors_total"), help);
            for (labels, errors) in &samples {
                encoder.sample_if(labels, value(errors));
            }
        }
    }
}

fn controller_label(controller: &Controller) -> String {
    labels(&[("controller", &controller.number.to_string())])
}

fn rows(controller: &Controller) -> Samples {
    let label =
        |row: &str| labels(&[("controller", &controller.number.to_string()), ("csrow", row)]);
    let rows = controller.rows.iter().map(|row| (label(&row.number.to_string()), row.errors));
    rows.chain([(label("unknown"), controller.without_row)]).collect()
}

fn channels(controller: &Controller) -> Samples {
    let number = controller.number.to_string();
    let label = |channel: &Channel| {
        labels(&[
            ("controller", &number),
            ("csrow", &channel.row),
            ("channel", &channel.channel),
            ("dimm_label", &dimm_label(channel)),
        ])
    };
    controller.channels.iter().map(|channel| (label(channel), channel.errors)).collect()
}

/// As node_exporter forms it: `mc#0csrow#1channel#0` is `mc0_csrow1_channel0`.
fn dimm_label(channel: &Channel) -> String {
    let label = channel.dimm_label.as_deref().unwrap_or("unknown").replace('#', "");
    label.replace("csrow", "_csrow").replace("channel", "_channel")
}
