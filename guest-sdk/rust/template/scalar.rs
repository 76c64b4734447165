//! Plugin `{{name}}`: the distance of two numbers, as a start for a scalar function of your own.

use kindling_guest::plugin;

/// The value of a row. Its arguments are those of the function in SQL; rows with a null in one of them give null.
fn value(a: f64, b: f64) -> Result<f64, String> {
    if !(a.is_finite() && b.is_finite()) {
        return Err(format!("{a} and {b} have no distance")); // the row goes to the rejects, with this text
    }
    Ok((a - b).abs())
}

plugin! {
    name: "{{name}}",
    version: env!("CARGO_PKG_VERSION"),
    scalars: [
        /// The distance of two numbers.
        {{name}}: value,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{self, Rows};

    #[test]
    fn distances() {
        let rows = Rows::of([Some(1.0), None]).constant(3.5);
        assert_eq!(testing::scalar(plugin(), "{{name}}", &rows), Ok(vec![Some(2.5), None]));
    }
}
