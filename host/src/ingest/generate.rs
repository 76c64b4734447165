//! Generated events of a dating app: swipes, matches, sessions and experiment assignments, late, out-of-order and broken ones among
//! them.
//!
//! Invariant: [`event`] is a pure function of the spec, the partition and the offset: a job that starts again from any offset reads
//! the same records.

use super::{IngestError, Polled, Reader, Source};
use crate::config::spec::GenerateSpec;
use crate::element::{OwnedRecord, OwnedRecords, PartitionName, RawBatch};
use std::time::{Duration, Instant};

/// Event time moves on as if there were so many rows a second when the pace is "as fast as it goes".
const UNPACED_ROWS_PER_SECOND: u64 = 10_000;
/// Users; low numbers are much more active than high ones.
const USERS: f64 = 1_000_000.0;
/// A late event comes at least this much, and at most eleven times this much, later than the disorder allows.
const LATE_BY_MS: u64 = 60_000;

const NAMES: [(&str, u64); 10] = [
    ("Swipe.like", 30),
    ("Swipe.pass", 25),
    ("Experiment.assign", 20),
    ("Profile.view", 8),
    ("Message.send", 5),
    ("Message.read", 4),
    ("Session.start", 3),
    ("Session.end", 2),
    ("Match.create", 2),
    ("Photo.upload", 1),
];
const PLATFORMS: [&str; 3] = ["ios", "android", "web"];
const SCREENS: [&str; 5] = ["deck", "chat", "profile", "matches", "settings"];
const AGENTS: [&str; 4] = [
    "Spark/8.1 (iPhone; iOS 19.2)",
    "Spark/8.0 (Android 16; Pixel 10)",
    "Mozilla/5.0 (X11; Linux x86_64)",
    "Spark/7.9 (iPad; iOS 18.6)",
];
const BOTS: [&str; 3] = ["python-requests/2.32", "HeadlessChrome/141.0", "curl/8.16"];
const CITIES: [(f64, f64); 6] =
    [(52.52, 13.40), (48.86, 2.35), (40.71, -74.01), (-23.55, -46.63), (35.68, 139.69), (28.61, 77.21)];

/// The event at `offset` of `partition`. `spec.start_ms` should be set; without it events start at 1970.
pub fn event(spec: &GenerateSpec, partition: usize, offset: i64) -> OwnedRecord {
    let mut r = Rng::of(spec.seed, partition as u64, offset as u64);
    let rate = if spec.rows_per_second == 0 { UNPACED_ROWS_PER_SECOND } else { spec.rows_per_second };
    let number = offset as u64 * spec.partitions.max(1) as u64 + partition as u64;
    let arrival = spec.start_ms.unwrap_or(0).saturating_add((u128::from(number) * 1_000 / u128::from(rate)) as i64);
    // Most events come nearly in order, few use up all that is allowed.
    let disorder = spec.disorder.as_millis() as f64;
    let mut delay = (disorder * r.unit().powi(3)) as u64;
    if r.unit() < spec.late_share {
        delay = disorder as u64 + LATE_BY_MS + r.below(10 * LATE_BY_MS);
    }
    let user = ((USERS.ln() * r.unit()).exp()) as u64;
    let mut value = Vec::with_capacity(512);
    write_event(&mut value, &mut r, arrival.saturating_sub(delay as i64), user);
    if r.unit() < spec.broken_share {
        break_event(&mut value, &mut r);
    }
    OwnedRecord {
        offset,
        timestamp: Some(arrival),
        key: Some(user.to_string().into_bytes()),
        value: Some(value),
        headers: Vec::new(),
    }
}

fn write_event(out: &mut Vec<u8>, r: &mut Rng, time: i64, user: u64) {
    let mut pick = r.below(NAMES.iter().map(|n| n.1).sum());
    let name =
        NAMES.iter().find(|(_, share)| pick.checked_sub(*share).map(|rest| pick = rest).is_none()).map_or("Swipe.like", |n| n.0);
    let agent = if r.unit() < 0.005 { r.pick(&BOTS) } else { r.pick(&AGENTS) };
    let city = r.pick(&CITIES);
    let (lat, lon) = (city.0 + r.unit() * 0.2 - 0.1, city.1 + r.unit() * 0.2 - 0.1);
    let mut text = format!(
        r#"{{"st":{time},"eventId":"{:016x}","name":"{name}","userId":{user},"platform":"{}","userAgent":"{agent}","location":{{"lat":{lat:.5},"lon":{lon:.5}}}"#,
        r.next(),
        r.pick(&PLATFORMS),
    );
    if name == "Experiment.assign" {
        let experiment = r.below(20);
        // A user stays in the same bucket of an experiment.
        let bucket = Rng::of(user, experiment, 0).below(3);
        text.push_str(&format!(
            r#","experimentGroup":"{}","experimentName":"exp-{experiment:02}","experimentBucket":"{}""#,
            ["growth", "matching", "chat", "safety"][experiment as usize % 4],
            ["control", "A", "B"][bucket as usize],
        ));
    }
    let (screen, build, premium) = (r.pick(&SCREENS), 4_000 + r.below(300), r.below(5) == 0);
    text.push_str(&format!(r#","properties":{{"screen":"{screen}","build":{build},"premium":{premium}"#));
    if name.starts_with("Swipe") || name.starts_with("M") || name == "Profile.view" {
        text.push_str(&format!(r#","targetUserId":{}"#, (USERS.ln() * r.unit()).exp() as u64));
    }
    text.push_str("}}");
    out.extend_from_slice(text.as_bytes());
}

/// Makes an event what clients really send now and then.
fn break_event(value: &mut Vec<u8>, r: &mut Rng) {
    match r.below(5) {
        0 => value.truncate(1 + r.below(value.len() as u64 - 1) as usize),
        1 => value.extend_from_slice(b"}"),
        2 => replace(value, b"\"st\":", b"\"st\":\"yesterday\",\"was\":"),
        3 => replace(value, b"\"name\":", b"\"name\":{},\"was\":"),
        _ => {
            let at = r.below(value.len() as u64) as usize;
            value[at] = 0xff;
        }
    }
}

fn replace(value: &mut Vec<u8>, old: &[u8], new: &[u8]) {
    if let Some(at) = value.windows(old.len()).position(|w| w == old) {
        value.splice(at..at + old.len(), new.iter().copied());
    }
}

/// SplitMix64 (Steele, Lea, Flood: "Fast splittable pseudorandom number generators").
struct Rng(u64);

impl Rng {
    fn of(a: u64, b: u64, c: u64) -> Self {
        let mut r = Self(a);
        r.0 = r.next() ^ b.wrapping_mul(0xD6E8_FEB8_6659_FD93);
        r.0 = r.next() ^ c.wrapping_mul(0xA076_1D64_78BD_642F);
        r.next();
        r
    }
    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9E37_79B9_7F4A_7C15);
        let z = (self.0 ^ (self.0 >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        let z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        z ^ (z >> 31)
    }
    /// Less than `n`; 0 where `n` is 0.
    fn below(&mut self, n: u64) -> u64 {
        self.next() % n.max(1)
    }
    /// In [0, 1).
    fn unit(&mut self) -> f64 {
        (self.next() >> 11) as f64 / (1u64 << 53) as f64
    }
    fn pick<T: Copy>(&mut self, of: &[T]) -> T {
        of[self.below(of.len() as u64) as usize]
    }
}

/// Generated events as a source.
pub struct GenerateSource {
    spec: GenerateSpec,
    partitions: Vec<PartitionName>,
}

impl GenerateSource {
    /// A source by `spec`; where it has no start, events start at `now_ms`.
    pub fn new(spec: &GenerateSpec, now_ms: i64) -> Self {
        let mut spec = spec.clone();
        spec.partitions = spec.partitions.max(1);
        spec.start_ms.get_or_insert(now_ms);
        let name = |partition| PartitionName { topic: "generate".into(), partition: partition as i32 };
        Self { partitions: (0..spec.partitions).map(name).collect(), spec }
    }

    /// Rows of `partition` in all.
    fn rows(spec: &GenerateSpec, partition: usize) -> i64 {
        let all = |rows: u64| rows.saturating_sub(partition as u64).div_ceil(spec.partitions as u64);
        spec.rows.map_or(i64::MAX, |rows| i64::try_from(all(rows)).unwrap_or(i64::MAX))
    }
}

impl Source for GenerateSource {
    fn partitions(&self) -> &[PartitionName] {
        &self.partitions
    }

    fn start_positions(&mut self) -> Result<Vec<i64>, IngestError> {
        Ok(vec![0; self.partitions.len()])
    }

    fn readers(&mut self, positions: &[i64], readers: usize) -> Result<Vec<Box<dyn Reader>>, IngestError> {
        let mut shares: Vec<Vec<Place>> = (0..readers).map(|_| Vec::new()).collect();
        for (partition, &position) in positions.iter().enumerate() {
            shares[partition % readers].push(Place { partition, position, end: Self::rows(&self.spec, partition) });
        }
        let reader = |places: Vec<Place>| {
            let per_second = self.spec.rows_per_second as f64 * places.len() as f64 / self.partitions.len() as f64;
            Box::new(GenerateReader { spec: self.spec.clone(), places, per_second, pace: None, next: 0 }) as Box<dyn Reader>
        };
        Ok(shares.into_iter().map(reader).collect())
    }

    fn end_positions(&mut self) -> Vec<i64> {
        match self.spec.rows {
            None => Vec::new(),
            Some(_) => (0..self.partitions.len()).map(|p| Self::rows(&self.spec, p)).collect(),
        }
    }
}

struct Place {
    partition: usize,
    position: i64,
    end: i64,
}

struct GenerateReader {
    spec: GenerateSpec,
    /// Partitions that have not ended.
    places: Vec<Place>,
    /// Rows a second of this reader's partitions; 0: as fast as it goes.
    per_second: f64,
    /// When this reader was first polled, and rows given out since then.
    pace: Option<(Instant, u64)>,
    next: usize,
}

impl GenerateReader {
    /// Rows that may be given out now.
    fn due(&mut self) -> u64 {
        let (start, given) = *self.pace.get_or_insert_with(|| (Instant::now(), 0));
        if self.per_second == 0.0 {
            u64::MAX
        } else {
            ((start.elapsed().as_secs_f64() * self.per_second) as u64).saturating_sub(given)
        }
    }
}

impl Reader for GenerateReader {
    fn poll(&mut self, rows: usize, wait: Duration) -> Result<Polled, IngestError> {
        let mut polled = Polled::default();
        if self.places.is_empty() {
            std::thread::sleep(wait);
            return Ok(polled);
        }
        let mut due = self.due();
        if due == 0 {
            // Rather a few rows at once than a wake-up for each.
            std::thread::sleep(wait.min(Duration::from_secs_f64((64.0 / self.per_second).clamp(0.001, 1.0))));
            due = self.due();
        }
        let (places, mut left) = (self.places.len(), rows.min(usize::try_from(due).unwrap_or(usize::MAX)));
        for i in 0..places {
            let place = &mut self.places[(self.next + i) % places];
            let share = (left.div_ceil(places - i) as i64).min(place.end.saturating_sub(place.position));
            if share > 0 {
                let made = (place.position..place.position + share).map(|offset| event(&self.spec, place.partition, offset));
                let records = Box::new(OwnedRecords { rows: made.collect() });
                polled.batches.push(RawBatch { partition: place.partition, records });
                place.position += share;
                left -= share as usize;
                if let Some((_, given)) = &mut self.pace {
                    *given += share as u64;
                }
            }
        }
        self.next = (self.next + 1) % places;
        self.places.retain(|p| {
            let ended = p.position >= p.end;
            if ended {
                polled.finished.push(p.partition);
            }
            !ended
        });
        Ok(polled)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::Value;

    fn spec() -> GenerateSpec {
        GenerateSpec {
            rows_per_second: 0,
            rows: Some(10_001),
            start_ms: Some(1_760_000_000_000),
            late_share: 0.02,
            broken_share: 0.03,
            ..Default::default()
        }
    }

    fn read_all(positions: &[i64], readers: usize, rows: usize) -> Vec<Vec<OwnedRecord>> {
        let mut source = GenerateSource::new(&spec(), 0);
        let mut got = vec![Vec::new(); 4];
        for mut reader in source.readers(positions, readers).unwrap() {
            let mut finished = 0;
            while finished < 4_usize.div_ceil(readers) {
                let polled = reader.poll(rows, Duration::ZERO).unwrap();
                finished += polled.finished.len();
                for b in polled.batches {
                    got[b.partition].extend((0..b.records.len()).map(|i| {
                        let r = b.records.record(i);
                        OwnedRecord {
                            offset: r.offset,
                            timestamp: r.timestamp,
                            key: r.key.map(Into::into),
                            value: r.value.map(Into::into),
                            headers: vec![],
                        }
                    }));
                }
            }
        }
        got
    }

    #[test]
    fn the_same_from_any_offset_however_it_is_read() {
        let all = read_all(&[0; 4], 1, 1_000);
        assert_eq!(all.iter().map(Vec::len).collect::<Vec<_>>(), [2_501, 2_500, 2_500, 2_500]);
        let again = read_all(&[2_000; 4], 2, 7);
        for (a, b) in all.iter().zip(&again) {
            assert_eq!(a[2_000..].iter().map(|r| &r.value).collect::<Vec<_>>(), b.iter().map(|r| &r.value).collect::<Vec<_>>());
            assert!(b.iter().zip(2_000..).all(|(r, offset)| r.offset == offset));
        }
        assert_ne!(all[0][5].value, event(&GenerateSpec { seed: 43, ..spec() }, 0, 5).value);
    }

    #[test]
    fn shares_are_as_asked_for() {
        let (mut broken, mut late, mut assigned, mut all) = (0, 0, 0, 0);
        let watermark = |r: &OwnedRecord| r.timestamp.unwrap() - 3_000;
        for r in read_all(&[0; 4], 1, 1_000).into_iter().flatten() {
            all += 1;
            let json = serde_json::from_slice::<Value>(r.value.as_ref().unwrap())
                .ok()
                .filter(|v| v["st"].is_i64() && v["name"].is_string());
            let Some(v) = json else {
                broken += 1;
                continue;
            };
            late += u32::from(v["st"].as_i64().unwrap() < watermark(&r));
            assert!(v["location"]["lat"].is_f64() && v["properties"]["screen"].is_string());
            if v["name"] == "Experiment.assign" {
                assigned += 1;
                assert!(["experimentGroup", "experimentName", "experimentBucket"].iter().all(|f| v[f].is_string()), "{v}");
            }
        }
        for (what, n, share) in [("broken", broken, 0.03), ("late", late, 0.02), ("assigned", assigned, 0.2)] {
            let got = f64::from(n) / f64::from(all);
            assert!((got / share - 1.0).abs() < 0.2, "{what}: {got} instead of {share}");
        }
    }

    #[test]
    fn the_pace_is_kept() {
        let mut source = GenerateSource::new(&GenerateSpec { rows_per_second: 20_000, ..spec() }, 0);
        let mut reader = source.readers(&[0; 4], 1).unwrap().remove(0);
        let (start, mut rows) = (Instant::now(), 0);
        while start.elapsed() < Duration::from_millis(200) {
            rows += reader.poll(1_000, Duration::from_millis(10)).unwrap().batches.iter().map(|b| b.records.len()).sum::<usize>();
        }
        let expected = start.elapsed().as_secs_f64() * 20_000.0;
        assert!(rows as f64 <= expected + 1.0 && rows as f64 > expected * 0.7, "{rows} of {expected}");
    }
}
