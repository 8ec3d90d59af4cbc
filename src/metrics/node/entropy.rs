//! Entropy: the collector entropy.

use crate::metrics::encoder::Encoder;
use crate::model::node::entropy::Entropy;

pub(super) fn encode(encoder: &mut Encoder, entropy: &Entropy) {
    encoder
        .gauge(
            "node_entropy_available_bits",
            "Entropy available to the random number generator, in bits.",
        )
        .sample("", entropy.available_bits);
    encoder
        .gauge("node_entropy_pool_size_bits", "Size of the entropy pool in bits.")
        .sample_if("", entropy.pool_size_bits);
}
