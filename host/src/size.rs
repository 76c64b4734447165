//! Bytes as people write them: `256MiB`, `1GiB`, `500MB`, `unlimited`.

/// A number of bytes from text: `256MiB`, `64MB`, `4096`, whole numbers only; `unlimited` is the largest there is.
///
/// # Errors
/// What is wrong with the text, with an example.
pub fn parse_size(text: &str) -> Result<usize, String> {
    let t = text.trim();
    if t == "unlimited" {
        return Ok(usize::MAX);
    }
    let digits = t.bytes().take_while(u8::is_ascii_digit).count();
    let bad = || format!("`{text}` is not a size: write for example `256MiB`, `1GiB` or `unlimited`");
    let n: usize = t[..digits].parse().map_err(|_| bad())?;
    let unit: usize = match t[digits..].trim_start_matches(['.', ' ', '_']).to_ascii_lowercase().as_str() {
        "" | "b" | "bytes" => 1,
        "kib" => 1 << 10,
        "mib" => 1 << 20,
        "gib" => 1 << 30,
        "tib" => 1 << 40,
        "kb" => 1_000,
        "mb" => 1_000_000,
        "gb" => 1_000_000_000,
        "tb" => 1_000_000_000_000,
        _ => return Err(bad()),
    };
    n.checked_mul(unit).ok_or_else(|| format!("`{text}` is more than there can be"))
}

/// `1.5 MiB`: for people.
pub fn format_size(bytes: usize) -> String {
    let mut unit = 0;
    let mut n = bytes as f64;
    while n >= 1_024.0 && unit < 4 {
        (n, unit) = (n / 1_024.0, unit + 1);
    }
    let name = ["bytes", "KiB", "MiB", "GiB", "TiB"][unit];
    if unit == 0 || n >= 100.0 { format!("{n:.0} {name}") } else { format!("{n:.1} {name}") }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_as_people_write_them() {
        let read = |text| parse_size(text).unwrap();
        assert_eq!(["256MiB", "1 GiB", "64mb", "4096", "2.KiB"].map(read), [256 << 20, 1 << 30, 64_000_000, 4_096, 2_048]);
        assert_eq!(read(" unlimited "), usize::MAX);
        for bad in ["", "MiB", "1.5GiB", "12 parsecs", "-1MiB", "99999999999999999999", "99999999TiB"] {
            assert!(parse_size(bad).is_err(), "{bad}");
        }
    }

    #[test]
    fn sizes_are_shown_in_the_unit_that_fits() {
        assert_eq!(
            [0, 1_023, 1_536, 200 << 20, 3 << 40].map(format_size),
            ["0 bytes", "1023 bytes", "1.5 KiB", "200 MiB", "3.0 TiB"]
        );
    }
}
