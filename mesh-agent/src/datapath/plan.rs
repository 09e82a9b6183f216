//! The difference between what a map holds and what it should hold. Pure.

use std::collections::BTreeMap;

/// One change to one map.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Op<K, V> {
    /// Delete the key.
    Del(K),
    /// Write the value under the key.
    Put(K, V),
}

/// The changes that turn `have` into `want`.
///
/// Puts come before deletes, so an address that moves between entries is never absent.
pub fn plan<K: Ord + Copy, V: PartialEq + Copy>(
    have: &BTreeMap<K, V>,
    want: &BTreeMap<K, V>,
) -> Vec<Op<K, V>> {
    let (mut puts, mut dels) = (Vec::new(), Vec::new());
    // Both are in the order of keys, and mostly the same.
    let mut held = have.iter().peekable();
    for (key, value) in want {
        while let Some((gone, _)) = held.next_if(|(held, _)| *held < key) {
            dels.push(Op::Del(*gone));
        }
        let same = held.next_if(|(held, _)| *held == key);
        if same.is_none_or(|(_, held)| held != value) {
            puts.push(Op::Put(*key, *value));
        }
    }
    dels.extend(held.map(|(gone, _)| Op::Del(*gone)));
    puts.append(&mut dels);
    puts
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn puts_before_deletes() {
        let have = BTreeMap::from([(1, 'a'), (2, 'b')]);
        let want = BTreeMap::from([(2, 'c'), (3, 'd')]);
        assert_eq!(plan(&have, &want), [Op::Put(2, 'c'), Op::Put(3, 'd'), Op::Del(1)]);
        assert_eq!(plan(&want, &want), []);
    }

    proptest! {
        #[test]
        fn applied_to_what_is_there_it_gives_what_is_wanted(
            have: BTreeMap<u8, u8>, want: BTreeMap<u8, u8>,
        ) {
            let mut map = have.clone();
            let mut deleted = false;
            for op in plan(&have, &want) {
                match op {
                    Op::Put(key, value) => {
                        prop_assert!(!deleted);
                        map.insert(key, value);
                    }
                    Op::Del(key) => {
                        deleted = true;
                        prop_assert!(map.remove(&key).is_some());
                    }
                }
            }
            prop_assert_eq!(map, want);
        }
    }
}
