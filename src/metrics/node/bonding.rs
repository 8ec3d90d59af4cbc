//! Bonds: the collector bonding.

use crate::metrics::Truncation;
use crate::metrics::encoder::{Encoder, labels};
use crate::model::node::bonding::Bond;

/// A server has a few; their names fill a page in the kernel.
const MAX_BONDS: usize = 64;

pub(super) fn encode(encoder: &mut Encoder, bonds: &[Bond], truncation: &mut Truncation) {
    let bonds = truncation.limit("bonds", bonds, MAX_BONDS);
    encoder.gauge("node_bonding_slaves", "Number of interfaces that the bond is made of.");
    for bond in bonds {
        encoder.sample(&labels(&[("master", &bond.master)]), bond.slaves);
    }
    encoder.gauge("node_bonding_active", "Number of interfaces of the bond whose link is up.");
    for bond in bonds {
        encoder.sample(&labels(&[("master", &bond.master)]), bond.active);
    }
}
