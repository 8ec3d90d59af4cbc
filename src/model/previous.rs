//! Finds an item of one sample in the previous sample.

/// Looks up items of a list that is nearly the same, in nearly the same order: the kernel prints lists in a stable order. Each
/// search starts after the last match, so that looking up all items takes linear time.
pub struct PreviousItems<'a, T> {
    items: &'a [T],
    next: usize,
}

impl<'a, T> PreviousItems<'a, T> {
    pub fn new(items: &'a [T]) -> Self {
        Self { items, next: 0 }
    }

    /// The first match after the last one, or else the first match of all.
    pub fn find(&mut self, matches: impl Fn(&T) -> bool) -> Option<&'a T> {
        let (before, after) = self.items.split_at_checked(self.next)?;
        let ahead = after.iter().position(&matches).map(|at| self.next + at);
        let found = ahead.or_else(|| before.iter().position(&matches))?;
        self.next = found + 1;
        self.items.get(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn finds_items_in_any_order() {
        let items = [1, 2, 3, 4];
        let mut previous = PreviousItems::new(&items);
        let found = [1, 2, 4, 3, 9, 1, 4, 4].map(|item| previous.find(|each| *each == item));
        let expected = [1, 2, 4, 3, 0, 1, 4, 4];
        assert_eq!(found.map(|found| found.copied().unwrap_or_default()), expected);
        assert_eq!(PreviousItems::new(&[]).find(|_: &u8| true), None);
    }

    #[test]
    fn compares_each_item_once_when_order_is_same() {
        let items: Vec<u32> = (0..1000).collect();
        let compared = Cell::new(0);
        let mut previous = PreviousItems::new(&items);
        for item in &items {
            let matches = |each: &u32| {
                compared.set(compared.get() + 1);
                each == item
            };
            assert_eq!(previous.find(matches), Some(item));
        }
        assert_eq!(compared.get(), 1000);
    }
}
