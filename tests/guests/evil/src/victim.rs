//! Versions of one plugin, `victim`, with the aggregate `victim_count(utf8) -> int64`: good ones, and ones that go wrong somewhere.

/// Where a version is asked to do something.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stage {
    /// A row arrives.
    Update,
    /// Two states become one.
    Merge,
    /// A result is wanted.
    Finish,
}

/// A version of the plugin. The hook is called at every stage, with whether the row or a state that saw it is poisoned.
#[macro_export]
macro_rules! victim {
    ($version:literal, $hook:expr) => {
        kindling_guest::state! {
            #[derive(Default)]
            struct Victim { count: i64, poisoned: bool }
        }

        impl Victim {
            fn update(&mut self, text: &str) {
                let poisoned = text == $crate::POISON;
                Self::hook($crate::victim::Stage::Update, poisoned);
                self.count += 1;
                self.poisoned |= poisoned;
            }
            fn merge(&mut self, other: Self) {
                Self::hook($crate::victim::Stage::Merge, self.poisoned || other.poisoned);
                self.count += other.count;
                self.poisoned |= other.poisoned;
            }
            fn finish(&self) -> i64 {
                Self::hook($crate::victim::Stage::Finish, self.poisoned);
                self.count
            }
            fn hook(stage: $crate::victim::Stage, poisoned: bool) {
                let hook: fn($crate::victim::Stage, bool) = $hook;
                hook(stage, poisoned);
            }
        }

        kindling_guest::plugin! {
            name: "victim",
            version: $version,
            aggregates: [
                /// How many texts are not null.
                victim_count: Victim,
            ],
        }
    };
}
