//! Bytes rendered from one sample, shared by all responses that send them.

use std::sync::{Arc, OnceLock};

/// Number of distinct renderings of a sample: message kinds, exposition formats, each with and without compression.
const SLOTS: usize = 16;

/// Renders each representation of a sample at most once. Concurrent callers of the same slot wait for the first one.
#[derive(Default)]
pub struct RenderCache {
    slots: [OnceLock<Arc<[u8]>>; SLOTS],
}

impl RenderCache {
    /// Returns the bytes in `slot`, or renders them first. Panics if `slot` is not below 16: slots are constants of the caller.
    pub fn get_or_render(&self, slot: usize, render: impl FnOnce() -> Vec<u8>) -> &Arc<[u8]> {
        self.slots[slot].get_or_init(|| render().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_each_slot_once() {
        let cache = RenderCache::default();
        let first = cache.get_or_render(0, || b"first".to_vec()).clone();
        assert!(Arc::ptr_eq(&first, cache.get_or_render(0, || panic!("rendered twice"))));
        assert_eq!(**cache.get_or_render(SLOTS - 1, || b"last".to_vec()), *b"last");
    }
}
