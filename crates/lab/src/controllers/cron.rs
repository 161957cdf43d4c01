//! The five-field schedules of crontab(5).

use k8s_openapi::jiff::{Timestamp, ToSpan, civil::DateTime, tz::TimeZone};

/// Minutes, hours, days of month, months, days of week.
#[derive(Debug)]
pub(super) struct Schedule {
    minutes: u64,
    hours: u64,
    days: u64,
    months: u64,
    weekdays: u64,
    /// Neither day field is `*`: then either may match.
    either_day: bool,
}

const MONTHS: [&str; 12] =
    ["jan", "feb", "mar", "apr", "may", "jun", "jul", "aug", "sep", "oct", "nov", "dec"];
const WEEKDAYS: [&str; 7] = ["sun", "mon", "tue", "wed", "thu", "fri", "sat"];

impl Schedule {
    pub(super) fn parse(text: &str) -> Result<Schedule, String> {
        let text = match text.trim() {
            "@yearly" | "@annually" => "0 0 1 1 *",
            "@monthly" => "0 0 1 * *",
            "@weekly" => "0 0 * * 0",
            "@daily" | "@midnight" => "0 0 * * *",
            "@hourly" => "0 * * * *",
            other => other,
        };
        let fields: Vec<&str> = text.split_whitespace().collect();
        let [minutes, hours, days, months, weekdays] = fields[..] else {
            return Err(format!("a schedule has five fields, not {}", fields.len()));
        };
        let week = field(weekdays, 0, 7, &WEEKDAYS, 0)?;
        Ok(Schedule {
            minutes: field(minutes, 0, 59, &[], 0)?,
            hours: field(hours, 0, 23, &[], 0)?,
            days: field(days, 1, 31, &[], 0)?,
            months: field(months, 1, 12, &MONTHS, 1)?,
            // 7 is Sunday too.
            weekdays: week | (week >> 7 & 1),
            either_day: !days.starts_with('*') && !weekdays.starts_with('*'),
        })
    }

    /// The first time after `after`; none within four years means never.
    pub(super) fn next(&self, after: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        let start = zone.to_datetime(after).with().second(0).subsec_nanosecond(0).build().ok()?;
        let end = start.checked_add(4.years()).ok()?;
        let mut time = start.checked_add(1.minute()).ok()?;
        while time < end {
            if !self.on_day(time) {
                time = time.date().tomorrow().ok()?.to_datetime(Default::default());
            } else if !has(self.hours, time.hour()) {
                let next = time.with().minute(0).build().ok()?.checked_add(1.hour()).ok()?;
                time = next;
            } else if !has(self.minutes, time.minute()) {
                time = time.checked_add(1.minute()).ok()?;
            } else {
                return zone.to_timestamp(time).ok();
            }
        }
        None
    }

    /// The latest time after `since` that is not after `now`.
    pub(super) fn latest(&self, since: Timestamp, now: Timestamp, zone: &TimeZone) -> Option<Timestamp> {
        // Long sleeps are not caught up with one by one: only the latest time counts.
        let from = since.max(now.checked_sub(25.hours()).ok()?);
        let mut found = None;
        let mut time = self.next(from, zone)?;
        while time <= now {
            found = Some(time);
            time = self.next(time, zone)?;
        }
        found
    }

    fn on_day(&self, time: DateTime) -> bool {
        let day = has(self.days, time.day());
        let weekday = has(self.weekdays, time.weekday().to_sunday_zero_offset());
        has(self.months, time.month()) && if self.either_day { day || weekday } else { day && weekday }
    }
}

fn has(set: u64, number: i8) -> bool {
    set >> number & 1 == 1
}

/// One field as a set of bits: `*`, `*/5`, `1-5`, `1,3`, `mon-fri`.
fn field(text: &str, low: u32, high: u32, names: &[&str], first_name: u32) -> Result<u64, String> {
    let number = |word: &str| -> Result<u32, String> {
        let named = names.iter().position(|name| word.to_ascii_lowercase() == *name);
        let value = match named {
            Some(index) => first_name + u32::try_from(index).unwrap_or(0),
            None => word.parse().map_err(|_| format!("'{word}' is no number"))?,
        };
        if (low..=high).contains(&value) { Ok(value) } else { Err(format!("{value} is not in {low}-{high}")) }
    };
    let mut set = 0;
    for part in text.split(',') {
        let (range, step) = match part.split_once('/') {
            Some((range, step)) => {
                (range, step.parse().ok().filter(|step| *step > 0).ok_or("a step is a number")?)
            }
            None => (part, 1),
        };
        let (from, to) = match range.split_once('-') {
            Some((from, to)) => (number(from)?, number(to)?),
            None if range == "*" || range == "?" => (low, high),
            None if part.contains('/') => (number(range)?, high),
            None => (number(range)?, number(range)?),
        };
        if from > to {
            return Err(format!("the range {range} is upside down"));
        }
        set |= (from..=to).step_by(step).fold(0, |set, value| set | 1 << value);
    }
    Ok(set)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn next(schedule: &str, after: &str) -> String {
        let schedule = Schedule::parse(schedule).unwrap();
        schedule.next(after.parse().unwrap(), &TimeZone::UTC).unwrap().to_string()
    }

    #[test]
    fn the_next_time() {
        assert_eq!(next("*/5 * * * *", "2026-11-21T13:31:10Z"), "2026-11-21T13:35:00Z");
        assert_eq!(next("0 3 * * *", "2026-11-21T13:31:10Z"), "2026-11-22T03:00:00Z");
        assert_eq!(next("30 8 1 jan *", "2026-11-21T13:31:10Z"), "2027-01-01T08:30:00Z");
        assert_eq!(next("0 0 * * mon-fri", "2026-11-21T13:31:10Z"), "2026-11-23T00:00:00Z");
        assert_eq!(next("@hourly", "2026-11-21T23:59:59Z"), "2026-11-22T00:00:00Z");
        assert_eq!(next("0 0 13 * 5", "2026-11-21T00:00:00Z"), "2026-11-27T00:00:00Z");
        assert_eq!(next("0 0 * * 7", "2026-11-21T00:00:00Z"), "2026-11-22T00:00:00Z");
    }

    #[test]
    fn missed_times_are_not_caught_up_with() {
        let schedule = Schedule::parse("*/10 * * * *").unwrap();
        let at = |text: &str| text.parse::<Timestamp>().unwrap();
        let latest = |since, now| schedule.latest(at(since), at(now), &TimeZone::UTC);
        assert_eq!(latest("2026-11-21T10:00:00Z", "2026-11-21T13:31:00Z"), Some(at("2026-11-21T13:30:00Z")));
        assert_eq!(latest("2026-11-21T13:30:00Z", "2026-11-21T13:31:00Z"), None);
    }

    #[test]
    fn what_is_no_schedule_is_refused() {
        for text in ["", "* * * *", "60 * * * *", "* * * * fun", "5-1 * * * *", "*/0 * * * *"] {
            assert!(Schedule::parse(text).is_err(), "{text}");
        }
    }
}
