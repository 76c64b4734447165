//! Its description traps.

evil::described!(panic!("no description"));
