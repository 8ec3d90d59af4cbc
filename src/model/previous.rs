//! What an item of one look was in the look before.

/// Finds the counterparts of a list's items in another list. Both hold nearly the same in the same order, as the kernel
/// prints it, so each search begins behind what the last one found: all of them together are one pass, however long the
/// lists are.
pub struct PreviousItems<'a, T> {
    all: &'a [T],
    next: usize,
}

impl<'a, T> PreviousItems<'a, T> {
    /// Of this list.
    pub fn of(all: &'a [T]) -> Self {
        Self { all, next: 0 }
    }

    /// The next one that `is` it, or the first.
    pub fn find(&mut self, is: impl Fn(&T) -> bool) -> Option<&'a T> {
        let (before, behind) = self.all.split_at_checked(self.next)?;
        let here = behind.iter().position(&is).map(|at| self.next + at);
        let found = here.or_else(|| before.iter().position(&is))?;
        self.next = found + 1;
        self.all.get(found)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    #[test]
    fn all_are_found_wherever_they_are() {
        let all = [1, 2, 3, 4];
        let mut counterparts = PreviousItems::of(&all);
        let found = [1, 2, 4, 3, 9, 1, 4, 4].map(|item| counterparts.find(|each| *each == item));
        let expected = [1, 2, 4, 3, 0, 1, 4, 4];
        assert_eq!(found.map(|found| found.copied().unwrap_or_default()), expected);
        assert_eq!(PreviousItems::of(&[]).find(|_: &u8| true), None);
    }

    #[test]
    fn the_same_list_is_gone_through_once() {
        let all: Vec<u32> = (0..1000).collect();
        let compared = Cell::new(0);
        let mut counterparts = PreviousItems::of(&all);
        for item in &all {
            let is = |each: &u32| {
                compared.set(compared.get() + 1);
                each == item
            };
            assert_eq!(counterparts.find(is), Some(item));
        }
        assert_eq!(compared.get(), 1000);
    }
}
