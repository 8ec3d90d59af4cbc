//! Bytes rendered from one sample, shared by all responses that send them.

use std::sync::{Arc, OnceLock};

/// The representations of a sample.
#[derive(Debug, Clone, Copy)]
pub enum Rendering {
    Update,
    DetailedUpdate,
    Prometheus,
    PrometheusGzip,
    OpenMetrics,
    OpenMetricsGzip,
    Snapshot,
    SnapshotGzip,
}

const RENDERINGS: usize = Rendering::SnapshotGzip as usize + 1;

/// Renders each representation of a sample at most once. Concurrent callers of the same one wait for the first.
#[derive(Default)]
pub struct RenderCache {
    rendered: [OnceLock<Arc<[u8]>>; RENDERINGS],
}

impl RenderCache {
    /// Returns the bytes, or renders them first.
    pub fn get_or_render(
        &self,
        rendering: Rendering,
        render: impl FnOnce() -> Vec<u8>,
    ) -> &Arc<[u8]> {
        self.rendered[rendering as usize].get_or_init(|| render().into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn renders_each_representation_once() {
        let cache = RenderCache::default();
        let first = cache.get_or_render(Rendering::Update, || b"first".to_vec()).clone();
        let again = cache.get_or_render(Rendering::Update, || panic!("rendered twice"));
        assert!(Arc::ptr_eq(&first, again));
        let last = cache.get_or_render(Rendering::SnapshotGzip, || b"last".to_vec());
        assert_eq!(**last, *b"last");
    }
}
