//! Its description never comes.

evil::described!({
    evil::misdeeds::endless_loop(&mut Vec::new(), 0).ok();
    evil::description("endless", Vec::new())
});
