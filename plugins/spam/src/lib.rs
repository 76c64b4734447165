//! Filters against bots and spam. Plain rules: fast, and anybody can say why a row was dropped.

use kindling_guest::plugin;

/// Nobody taps faster than this.
const EVENTS_PER_MINUTE_MAX: i64 = 300;

/// What programs call themselves, in lower case.
const PROGRAMS: [&str; 12] = [
    "bot",
    "crawl",
    "spider",
    "headless",
    "phantomjs",
    "selenium",
    "puppeteer",
    "curl/",
    "wget/",
    "python-",
    "go-http-client",
    "okhttp/0",
];

/// Where spam leads people, in lower case.
const LURES: [&str; 10] =
    ["http://", "https://", "www.", "t.me/", "wa.me/", "whatsapp", "telegram", "onlyfans", "bitcoin", "cashapp"];

/// Keeps rows that a person made: by a program that names itself as people's do, at a rate that fingers can reach.
/// Without a user agent the row is a program's; without a rate only the user agent counts.
fn is_human(user_agent: Option<&str>, events_per_minute: Option<i64>) -> bool {
    let slow_enough = events_per_minute.is_none_or(|rate| (0..=EVENTS_PER_MINUTE_MAX).contains(&rate));
    slow_enough && user_agent.is_some_and(|name| !name.trim().is_empty() && !contains_any(name, &PROGRAMS))
}

/// Keeps messages that don't look like spam: no links or other networks' names, no telephone numbers, no shouting.
/// A message without text is kept.
fn is_clean_message(text: Option<&str>) -> bool {
    text.is_none_or(|text| !contains_any(text, &LURES) && longest_number(text) < 9 && !shouts(text) && longest_run(text) < 8)
}

/// Whether one of the words is in the text, in lower, upper or mixed case. Words are ASCII in lower case.
fn contains_any(text: &str, words: &[&str]) -> bool {
    let text = text.as_bytes();
    (0..text.len()).any(|start| {
        let rest = &text[start..];
        words.iter().any(|word| rest.get(..word.len()).is_some_and(|part| part.eq_ignore_ascii_case(word.as_bytes())))
    })
}

/// Digits of the longest number, over the separators that people put into telephone numbers.
fn longest_number(text: &str) -> usize {
    let (mut longest, mut digits) = (0, 0);
    for c in text.chars() {
        match c {
            '0'..='9' => digits += 1,
            ' ' | '-' | '.' | '/' | '(' | ')' => {}
            _ => digits = 0,
        }
        longest = longest.max(digits);
    }
    longest
}

/// Whether most letters of a text of some length are capitals.
fn shouts(text: &str) -> bool {
    let (mut capitals, mut letters) = (0, 0);
    for c in text.chars().filter(|c| c.is_alphabetic()) {
        letters += 1;
        capitals += usize::from(c.is_uppercase());
    }
    letters >= 12 && capitals * 10 >= letters * 8
}

/// How often the same character stands in a row, at most.
fn longest_run(text: &str) -> usize {
    let (mut longest, mut run, mut last) = (0, 0, None);
    for c in text.chars() {
        run = if last == Some(c) { run + 1 } else { 1 };
        last = Some(c);
        longest = longest.max(run);
    }
    longest
}

plugin! {
    name: "spam",
    version: env!("CARGO_PKG_VERSION"),
    filters: [
        /// Keeps rows that a person made, by user agent and events a minute.
        is_human,
        /// Keeps messages that don't look like spam.
        is_clean_message,
    ],
}

#[cfg(test)]
mod tests {
    use super::*;
    use kindling_guest::testing::{Rows, filter};

    const PHONE: &str = "Mozilla/5.0 (iPhone; CPU iPhone OS 18_1 like Mac OS X) AppleWebKit/605.1.15";

    #[test]
    fn people_and_programs() {
        let cases = [
            (Some(PHONE), Some(40), true),
            (Some(PHONE), None, true),
            (Some(PHONE), Some(301), false),
            (Some(PHONE), Some(-1), false),
            (Some("Dating/7.2 (Android 15; Pixel 9)"), Some(300), true),
            (Some("Mozilla/5.0 (compatible; Googlebot/2.1)"), Some(1), false),
            (Some("HEADLESSChrome/120"), Some(1), false),
            (Some("curl/8.5.0"), Some(1), false),
            (Some("  "), Some(1), false),
            (None, Some(1), false),
        ];
        let rows = Rows::of(cases.iter().map(|case| case.0)).and(cases.iter().map(|case| case.1));
        assert_eq!(filter(plugin(), "is_human", &rows), Ok(cases.iter().map(|case| case.2).collect()));
    }

    #[test]
    fn messages() {
        let cases = [
            (Some("Hi! How was the concert on 12.10.2024?"), true),
            (Some("meet at 7, table for 2"), true),
            (Some("OMG YES"), true),
            (Some("sooooo good"), true),
            (None, true),
            (Some("see my pics at HTTPS://x.example"), false),
            (Some("write me on WhatsApp"), false),
            (Some("call +49 (151) 234-567 89"), false),
            (Some("EARN MONEY FROM HOME TODAY"), false),
            (Some("heyyyyyyyyyyyy"), false),
        ];
        let rows = Rows::of(cases.iter().map(|case| case.0));
        assert_eq!(filter(plugin(), "is_clean_message", &rows), Ok(cases.iter().map(|case| case.1).collect()));
    }

    #[test]
    fn the_search_agrees_with_a_slow_one() {
        let words = ["bot", "t.me/", "é"];
        for text in ["", "b", "robot", "ROBOT", "bo t", "x t.me/y", "t.me", "café bo", "ébot"] {
            let slow = words[..2].iter().any(|word| text.to_lowercase().contains(word));
            assert_eq!(contains_any(text, &words[..2]), slow, "{text}");
        }
    }
}
