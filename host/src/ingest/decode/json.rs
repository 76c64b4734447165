//! One checked pass over a JSON document (RFC 8259) that notes where the wanted values stand.
//!
//! In: bytes known to be UTF-8, the wanted [`Paths`]. Out: a [`Slot`] for each wanted path, or the first [`Fault`].
//! Where no string has escapes, which is usual, all quotes are marked first, and a string is skipped in one step.
//! Invariants: every byte of the document is checked, also after the last wanted value; nesting is bounded by
//! [`JSON_DEPTH_MAX`]; nothing is copied and nothing is allocated.
//!
//! Why not sonic-rs, which the rest of the field would use: its skipping of unwanted values recurses without a bound (a record of
//! `[[[[...` ends the process) and takes `\u` with any four characters after it, and it can't give the text of a number.

use super::paths::{Paths, ROOT};
use super::scan::{Survey, leading_digits, next_quote, plain_bytes};
use crate::limits::JSON_DEPTH_MAX;

/// What stands at a path.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Found {
    /// Nothing: no such path.
    Missing,
    Null,
    True,
    False,
    /// A number without fraction and exponent.
    Integer,
    /// Any other number.
    Decimal,
    /// A string without escapes; the range is what stands between the quotes.
    Text,
    /// A string with escapes; the range is what stands between the quotes.
    EscapedText,
    Array,
    Object,
}

/// A value and the bytes where it stands.
#[derive(Clone, Copy, Debug)]
pub(super) struct Slot {
    pub found: Found,
    pub start: u32,
    pub end: u32,
}

impl Slot {
    pub(super) const MISSING: Self = Self { found: Found::Missing, start: 0, end: 0 };
}

/// Why a text is not JSON, and the byte where that shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Fault {
    pub at: usize,
    pub what: &'static str,
}

type Checked<T> = Result<T, Fault>;

/// Reads `document` (UTF-8, less than 4 GiB), of which `survey` was made, and fills the slots of `paths`.
pub(super) fn read(document: &[u8], survey: &Survey, paths: &mut Paths) -> Checked<()> {
    match survey.quotes() {
        Some(quotes) => read_with(Scanner::<true> { bytes: document, quotes, at: 0 }, paths),
        None => read_with(Scanner::<false> { bytes: document, quotes: &[], at: 0 }, paths),
    }
}

fn read_with<const MARKED: bool>(mut scanner: Scanner<'_, MARKED>, paths: &mut Paths) -> Checked<()> {
    paths.start_document();
    scanner.skip_space();
    scanner.wanted(paths, ROOT, 0)?;
    scanner.skip_space();
    if scanner.at < scanner.bytes.len() {
        return Err(scanner.fault("something follows the JSON value"));
    }
    Ok(())
}

/// `MARKED`: a string ends at the next quote, and `quotes` says where that is.
struct Scanner<'a, const MARKED: bool> {
    bytes: &'a [u8],
    quotes: &'a [u8],
    at: usize,
}

impl<const MARKED: bool> Scanner<'_, MARKED> {
    #[cold]
    fn fault(&self, what: &'static str) -> Fault {
        Fault { at: self.at, what: if self.at >= self.bytes.len() { "the text ends in the middle of a value" } else { what } }
    }

    /// The byte here; 0, which is no byte of JSON's grammar, at the end.
    #[inline(always)]
    fn peek(&self) -> u8 {
        self.bytes.get(self.at).copied().unwrap_or(0)
    }

    #[inline(always)]
    fn skip_space(&mut self) {
        // Most JSON of machines has no space at all.
        if self.peek() <= b' ' {
            self.skip_some_space();
        }
    }

    #[inline(never)]
    fn skip_some_space(&mut self) {
        while matches!(self.peek(), b' ' | b'\t' | b'\n' | b'\r') {
            self.at += 1;
        }
    }

    /// A value on the way to something wanted.
    fn wanted(&mut self, paths: &mut Paths, node: u32, depth: u32) -> Checked<()> {
        let start = self.at;
        let mut slot = match self.peek() {
            b'{' => {
                if paths.has_members(node) {
                    self.object(paths, node, depth + 1)?;
                } else {
                    self.skip_container(depth)?;
                }
                Slot { found: Found::Object, start: 0, end: 0 }
            }
            b'[' => {
                if paths.has_elements(node) {
                    self.array(paths, node, depth + 1)?;
                } else {
                    self.skip_container(depth)?;
                }
                Slot { found: Found::Array, start: 0, end: 0 }
            }
            b'"' => {
                let escaped = self.string()?;
                let found = if escaped { Found::EscapedText } else { Found::Text };
                let (start, end) = (start as u32 + 1, self.at as u32 - 1);
                paths.found(node, Slot { found, start, end });
                return Ok(());
            }
            _ => Slot { found: self.scalar()?, start: 0, end: 0 },
        };
        (slot.start, slot.end) = (start as u32, self.at as u32);
        paths.found(node, slot);
        Ok(())
    }

    fn object(&mut self, paths: &mut Paths, node: u32, depth: u32) -> Checked<()> {
        self.check_depth(depth)?;
        self.at += 1;
        self.skip_space();
        if self.peek() == b'}' {
            self.at += 1;
            return Ok(());
        }
        loop {
            let start = self.at + 1;
            let escaped = self.name()?;
            let (name, length) = (&self.bytes[start..], self.at - 1 - start);
            self.colon()?;
            let child = if escaped { paths.escaped_member(node, &name[..length]) } else { paths.member(node, name, length) };
            match child {
                Some(child) => self.wanted(paths, child, depth)?,
                None => self.skip_value(depth)?,
            }
            self.skip_space();
            match self.peek() {
                b',' => self.at += 1,
                b'}' => {
                    self.at += 1;
                    return Ok(());
                }
                _ => return Err(self.fault("expected `,` or `}` after a member of an object")),
            }
            self.skip_space();
        }
    }

    fn array(&mut self, paths: &mut Paths, node: u32, depth: u32) -> Checked<()> {
        self.check_depth(depth)?;
        self.at += 1;
        self.skip_space();
        if self.peek() == b']' {
            self.at += 1;
            return Ok(());
        }
        for index in 0.. {
            match paths.element(node, index) {
                Some(child) => self.wanted(paths, child, depth)?,
                None => self.skip_value(depth)?,
            }
            self.skip_space();
            match self.peek() {
                b',' => self.at += 1,
                b']' => {
                    self.at += 1;
                    break;
                }
                _ => return Err(self.fault("expected `,` or `]` after an element of an array")),
            }
            self.skip_space();
        }
        Ok(())
    }

    #[inline(always)]
    fn check_depth(&self, depth: u32) -> Checked<()> {
        if depth > JSON_DEPTH_MAX { Err(Fault { at: self.at, what: "nested too deep" }) } else { Ok(()) }
    }

    /// A member's name; whether it has escapes.
    #[inline(always)]
    fn name(&mut self) -> Checked<bool> {
        if self.peek() != b'"' {
            return Err(self.fault("expected a member's name in double quotes"));
        }
        self.string()
    }

    #[inline(always)]
    fn colon(&mut self) -> Checked<()> {
        self.skip_space();
        if self.peek() != b':' {
            return Err(self.fault("expected `:` after a member's name"));
        }
        self.at += 1;
        self.skip_space();
        Ok(())
    }

    #[inline(always)]
    fn skip_value(&mut self, depth: u32) -> Checked<()> {
        match self.peek() {
            b'"' => self.string().map(|_| ()),
            b'{' | b'[' => self.skip_container(depth),
            _ => self.scalar().map(|_| ()),
        }
    }

    /// Skips an object or array without recursion: what is open is a bit each, 1 for an object.
    fn skip_container(&mut self, depth: u32) -> Checked<()> {
        const _: () = assert!(JSON_DEPTH_MAX <= u128::BITS);
        let (mut open, mut level) = (0u128, 0u32);
        loop {
            let byte = self.peek();
            match byte {
                b'{' | b'[' => {
                    level += 1;
                    self.check_depth(depth + level)?;
                    let object = byte == b'{';
                    open = open << 1 | u128::from(object);
                    self.at += 1;
                    self.skip_space();
                    if self.peek() != if object { b'}' } else { b']' } {
                        if object {
                            self.name()?;
                            self.colon()?;
                        }
                        continue;
                    }
                    self.at += 1;
                    open >>= 1;
                    level -= 1;
                }
                b'"' => {
                    self.string()?;
                }
                _ => {
                    self.scalar()?;
                }
            }
            while level > 0 {
                self.skip_space();
                match (self.peek(), open & 1 == 1) {
                    (b',', object) => {
                        self.at += 1;
                        self.skip_space();
                        if object {
                            self.name()?;
                            self.colon()?;
                        }
                        break;
                    }
                    (b'}', true) | (b']', false) => {
                        self.at += 1;
                        open >>= 1;
                        level -= 1;
                    }
                    _ => return Err(self.fault("expected `,` or the end of an object or array")),
                }
            }
            if level == 0 {
                return Ok(());
            }
        }
    }

    /// A string, from its opening to after its closing quote; whether it has escapes.
    #[inline(always)]
    fn string(&mut self) -> Checked<bool> {
        self.at += 1;
        if MARKED {
            let end = next_quote(self.quotes, self.at);
            self.at = end.map_or(self.bytes.len(), |end| end + 1);
            return if end.is_some() { Ok(false) } else { Err(self.fault("")) };
        }
        let mut escaped = false;
        loop {
            self.at += plain_bytes(&self.bytes[self.at..]);
            match self.peek() {
                b'"' => {
                    self.at += 1;
                    return Ok(escaped);
                }
                b'\\' => {
                    escaped = true;
                    self.escape()?;
                }
                _ => return Err(self.fault("a control character in a string")),
            }
        }
    }

    #[inline(never)]
    fn escape(&mut self) -> Checked<()> {
        self.at += 1;
        match self.peek() {
            b'"' | b'\\' | b'/' | b'b' | b'f' | b'n' | b'r' | b't' => self.at += 1,
            b'u' => {
                for _ in 0..4 {
                    self.at += 1;
                    if !self.peek().is_ascii_hexdigit() {
                        return Err(self.fault("expected four hexadecimal digits after `\\u`"));
                    }
                }
                self.at += 1;
            }
            _ => return Err(self.fault("an escape that JSON does not have")),
        }
        Ok(())
    }

    #[inline(always)]
    fn scalar(&mut self) -> Checked<Found> {
        match self.peek() {
            b'-' | b'0'..=b'9' => self.number(),
            b't' => self.literal(b"true", Found::True),
            b'f' => self.literal(b"false", Found::False),
            b'n' => self.literal(b"null", Found::Null),
            _ => Err(self.fault("expected a JSON value")),
        }
    }

    #[inline(always)]
    fn literal(&mut self, text: &'static [u8], found: Found) -> Checked<Found> {
        if !self.bytes[self.at..].starts_with(text) {
            return Err(self.fault("expected `true`, `false`, `null` or another JSON value"));
        }
        self.at += text.len();
        Ok(found)
    }

    #[inline(always)]
    fn number(&mut self) -> Checked<Found> {
        if self.peek() == b'-' {
            self.at += 1;
        }
        match self.peek() {
            b'0' => {
                self.at += 1;
                if self.peek().is_ascii_digit() {
                    return Err(self.fault("a number starts with 0"));
                }
            }
            b'1'..=b'9' => self.digits(),
            _ => return Err(self.fault("expected a digit")),
        }
        let mut found = Found::Integer;
        if self.peek() == b'.' {
            found = Found::Decimal;
            self.at += 1;
            self.some_digits()?;
        }
        if matches!(self.peek(), b'e' | b'E') {
            found = Found::Decimal;
            self.at += 1;
            if matches!(self.peek(), b'+' | b'-') {
                self.at += 1;
            }
            self.some_digits()?;
        }
        Ok(found)
    }

    #[inline(always)]
    fn digits(&mut self) {
        while let Some(chunk) = self.bytes[self.at..].first_chunk::<8>() {
            let digits = leading_digits(u64::from_le_bytes(*chunk));
            self.at += digits;
            if digits < 8 {
                return;
            }
        }
        while self.peek().is_ascii_digit() {
            self.at += 1;
        }
    }

    fn some_digits(&mut self) -> Checked<()> {
        if !self.peek().is_ascii_digit() {
            return Err(self.fault("expected a digit"));
        }
        self.digits();
        Ok(())
    }
}
