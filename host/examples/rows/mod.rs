//! Rows of the reference workload, for the examples that measure.

use std::io::Write;

/// Row `i` as the reference workload has it.
pub fn row(i: u64) -> Vec<u8> {
    let r = |salt: u64| {
        let z = (i + 1).wrapping_mul(0x9E37_79B9_7F4A_7C15).wrapping_add(salt).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z ^ (z >> 29)
    };
    let names = ["Experiment.assign", "Swipe.like", "Swipe.pass", "Match.create", "Message.send", "Message.read", "Profile.view"];
    let mut b = Vec::with_capacity(256);
    write!(
        b,
        r#"{{"eventId":"{:016x}","name":"{}","userId":{},"experiment":"exp-{}","variant":"{}","ts":{},"platform":"{}","properties":{{"screen":"{}","build":{},"premium":{}}}}}"#,
        r(1),
        names[r(2) as usize % names.len()],
        r(3) % 1_000_000,
        r(4) % 50,
        ["A", "B", "C"][r(5) as usize % 3],
        1_760_000_040_000 + i,
        ["ios", "android", "web"][r(6) as usize % 3],
        ["deck", "chat", "profile", "matches", "settings"][r(7) as usize % 5],
        4000 + r(8) % 300,
        r(9).is_multiple_of(5)
    )
    .expect("writing to a Vec does not fail");
    b
}
