//! The text of a JSON string with escapes.

/// A `\u` escape that is half a surrogate pair: no Unicode text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct LoneSurrogate;

/// Appends the text of `raw`, what stands between the quotes of a string that is known to be right JSON.
///
/// # Errors
/// [`LoneSurrogate`]; what was appended till then stays.
pub(super) fn append(raw: &str, text: &mut String) -> Result<(), LoneSurrogate> {
    let mut rest = raw;
    while let Some(at) = rest.find('\\') {
        text.push_str(&rest[..at]);
        let Some(&escape) = rest.as_bytes().get(at + 1) else { break };
        rest = rest.get(at + 2..).unwrap_or("");
        text.push(match escape {
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let (c, used) = unicode(rest).ok_or(LoneSurrogate)?;
                rest = rest.get(used..).unwrap_or("");
                c
            }
            other => other as char,
        });
    }
    text.push_str(rest);
    Ok(())
}

/// The character of `XXXX` or `XXXX\uXXXX` at the start of `rest`, and the bytes it takes.
fn unicode(rest: &str) -> Option<(char, usize)> {
    let hex = |from: usize| rest.get(from..from + 4).and_then(|h| u32::from_str_radix(h, 16).ok());
    let first = hex(0)?;
    if !(0xD800..0xDC00).contains(&first) {
        return char::from_u32(first).map(|c| (c, 4));
    }
    if rest.get(4..6) != Some("\\u") {
        return None;
    }
    let second = hex(6).filter(|s| (0xDC00..0xE000).contains(s))?;
    char::from_u32(0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00)).map(|c| (c, 10))
}
