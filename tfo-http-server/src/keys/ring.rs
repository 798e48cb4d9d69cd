//! The listeners that share keys, and how keys are changed on all of them.

use socket2::Socket;
use tfo_core::sockopt;

use super::error::KeyError;
use super::key::Key;
use super::schedule::Slots;

/// What has two slots for keys.
pub(super) trait Target {
    fn take(&self, slots: &Slots) -> Result<(), KeyError>;
}

impl Target for Socket {
    fn take(&self, slots: &Slots) -> Result<(), KeyError> {
        sockopt::set_fastopen_key(self, slots.primary(), slots.backup()).map_err(KeyError::refused)
    }
}

/// Listeners, each of which holds the keys that are in force.
#[derive(Debug)]
pub(super) struct Ring<T> {
    targets: Vec<(u64, T)>,
    last: u64,
    in_force: Option<Slots>,
    /// A step was not finished: some listeners are further.
    torn: bool,
}

impl<T: Target> Ring<T> {
    pub(super) fn new() -> Self {
        Self { targets: Vec::new(), last: 0, in_force: None, torn: false }
    }

    pub(super) fn in_force(&self) -> Option<&Slots> {
        self.in_force.as_ref()
    }

    pub(super) fn len(&self) -> usize {
        self.targets.len()
    }

    /// Gives a listener the keys that are in force; it gets all changes from now on.
    pub(super) fn add(&mut self, target: T) -> Result<u64, KeyError> {
        if let Some(slots) = &self.in_force {
            target.take(slots)?;
        }
        self.last += 1;
        self.targets.push((self.last, target));
        Ok(self.last)
    }

    pub(super) fn remove(&mut self, id: u64) {
        self.targets.retain(|(known, _)| *known != id);
    }

    /// Puts keys in force, each step on all listeners before the next. Tells whether they are others.
    ///
    /// After an error the listeners may be between two steps, and take each other's cookies all the
    /// same; to be tried again.
    pub(super) fn apply(&mut self, slots: Slots) -> Result<bool, KeyError> {
        if let Some(from) = &mut self.in_force
            && from.same_keys(&slots)
            && !self.torn
        {
            from.valid_until = slots.valid_until;
            return Ok(false);
        }
        for step in steps(self.in_force.as_ref(), slots) {
            self.torn = true;
            self.targets.iter().try_for_each(|(_, target)| target.take(&step))?;
            self.torn = false;
            self.in_force = Some(step);
        }
        Ok(true)
    }
}

/// A key that is not accepted everywhere must not be made cookies with anywhere, so it is the backup
/// first; and as long as one makes cookies with the old key all must take them, so it is the backup then.
fn steps(from: Option<&Slots>, to: Slots) -> impl Iterator<Item = Slots> + use<> {
    let step = |primary: &Key, backup: &Key, from: &Slots| Slots {
        primary: primary.clone(),
        backup: Some(backup.clone()),
        valid_until: from.valid_until,
    };
    let new = &to.primary;
    let (mut before, mut between) = (None, None);
    if let Some(from) = from.filter(|from| !from.primary.is(new)) {
        before = (!from.accept(new)).then(|| step(&from.primary, new, from));
        between = (!to.accept(&from.primary)).then(|| step(new, &from.primary, from));
    }
    before.into_iter().chain(between).chain([to])
}

#[cfg(test)]
mod tests {
    use std::cell::RefCell;
    use std::rc::Rc;

    use proptest::prelude::*;
    use tfo_core::sockopt::CookieKey;

    use super::super::error::KeyErrorKind;
    use super::super::key::KeyId;
    use super::*;

    type Ids = (KeyId, Option<KeyId>);

    /// All listeners as they are, and whether the next call fails.
    #[derive(Default)]
    struct World {
        now: Vec<Option<Ids>>,
        calls: usize,
        fail_at: Option<usize>,
    }

    struct Shard {
        index: usize,
        world: Rc<RefCell<World>>,
    }

    impl Target for Shard {
        fn take(&self, slots: &Slots) -> Result<(), KeyError> {
            let mut world = self.world.borrow_mut();
            world.calls += 1;
            if world.fail_at == Some(world.calls) {
                return Err(KeyError::new(KeyErrorKind::Refused));
            }
            world.now[self.index] = Some(slots.ids());
            // The promise: at no moment does one make cookies that another refuses.
            let all: Vec<_> = world.now.iter().flatten().collect();
            for (primary, _) in &all {
                for (first, second) in &all {
                    assert!(first == primary || *second == Some(*primary), "{all:?}");
                }
            }
            Ok(())
        }
    }

    fn ring(shards: usize) -> (Ring<Shard>, Rc<RefCell<World>>) {
        let world = Rc::new(RefCell::new(World { now: vec![None; shards], ..World::default() }));
        let mut ring = Ring::new();
        for index in 0..shards {
            ring.add(Shard { index, world: Rc::clone(&world) }).unwrap();
        }
        (ring, world)
    }

    fn slots(primary: u8, backup: u8) -> Slots {
        let key = |byte| Key::new(CookieKey::from_bytes([byte; 16]));
        Slots { primary: key(primary), backup: Some(key(backup)), valid_until: None }
    }

    #[test]
    fn a_change_is_on_all_before_the_next() {
        let (mut ring, world) = ring(3);
        assert!(ring.apply(slots(1, 9)).unwrap());
        assert_eq!(world.borrow().calls, 3);
        assert!(!ring.apply(slots(1, 9)).unwrap());
        assert_eq!(world.borrow().calls, 3, "nothing is set twice");
        // As a schedule does it: one step each.
        assert!(ring.apply(slots(1, 2)).unwrap());
        assert!(ring.apply(slots(2, 1)).unwrap());
        assert_eq!(world.borrow().calls, 9);
        // The phase between was slept through: (2, 3), (3, 2).
        assert!(ring.apply(slots(3, 2)).unwrap());
        assert_eq!(world.borrow().calls, 15);
        // A week was: (3, 9), (9, 3), (9, 8).
        assert!(ring.apply(slots(9, 8)).unwrap());
        assert_eq!(world.borrow().calls, 24);
    }

    #[test]
    fn a_new_listener_gets_what_the_others_have_and_an_old_one_is_let_alone() {
        let (mut ring, world) = ring(1);
        ring.apply(slots(1, 2)).unwrap();
        world.borrow_mut().now.push(None);
        let id = ring.add(Shard { index: 1, world: Rc::clone(&world) }).unwrap();
        assert_eq!(world.borrow().now[1], Some(slots(1, 2).ids()));
        ring.remove(id);
        assert_eq!(ring.len(), 1);
        ring.apply(slots(2, 1)).unwrap();
        assert_eq!(world.borrow().now[1], Some(slots(1, 2).ids()));
    }

    #[test]
    fn what_was_torn_is_mended_even_by_going_back() {
        let (mut ring, world) = ring(2);
        ring.apply(slots(1, 2)).unwrap();
        world.borrow_mut().fail_at = Some(4);
        ring.apply(slots(2, 1)).unwrap_err();
        ring.apply(slots(1, 2)).unwrap();
        assert_eq!(world.borrow().now, [Some(slots(1, 2).ids()); 2]);
    }

    proptest! {
        /// A failure anywhere in a change, which is then tried again; keys as a schedule has them.
        #[test]
        fn a_failed_change_is_finished_later(fail_at in 1..40_usize, shards in 1..5_usize, skip in 1..4_u8) {
            let (mut ring, world) = ring(shards);
            world.borrow_mut().fail_at = Some(fail_at);
            let mut wanted = slots(1, 0);
            for key in (1..12).step_by(skip.into()) {
                for (primary, backup) in [(key, key - 1), (key, key + 1)] {
                    wanted = slots(primary, backup);
                    if ring.apply(wanted.clone()).is_err() {
                        ring.apply(wanted.clone()).unwrap();
                    }
                }
            }
            prop_assert!(world.borrow().now.iter().all(|ids| *ids == Some(wanted.ids())));
        }
    }
}
