//! Amounts of resources: `500m`, `1Gi`, `1e3`.

/// The whole of the smallest part that is kept: a nano.
const NANO: i128 = 1_000_000_000;

/// An amount, in nanos, and how it is written.
#[derive(Debug, Clone, Copy)]
pub struct Quantity {
    nanos: i128,
    form: Form,
}

#[derive(Debug, Clone, Copy, PartialEq)]
enum Form {
    /// `k`, `M`, …
    Decimal,
    /// `e3`, `e6`, …
    Exponent,
    /// `Ki`, `Mi`, …
    Binary,
}

const DECIMAL: [(&str, i32); 10] =
    [("n", -9), ("u", -6), ("m", -3), ("", 0), ("k", 3), ("M", 6), ("G", 9), ("T", 12), ("P", 15), ("E", 18)];
const BINARY: [&str; 6] = ["Ki", "Mi", "Gi", "Ti", "Pi", "Ei"];

impl PartialEq for Quantity {
    fn eq(&self, other: &Quantity) -> bool {
        self.nanos == other.nanos
    }
}

impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Quantity) -> Option<std::cmp::Ordering> {
        self.nanos.partial_cmp(&other.nanos)
    }
}

impl Quantity {
    /// Reads an amount; what is smaller than a nano is rounded up, what is too large is the largest.
    pub fn parse(text: &str) -> Option<Quantity> {
        let (negative, rest) = match text.as_bytes().first()? {
            b'-' => (true, text.get(1..)?),
            b'+' => (false, text.get(1..)?),
            _ => (false, text),
        };
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(rest.len());
        let (number, suffix) = rest.split_at(end);
        let (whole, part) = number.split_once('.').unwrap_or((number, ""));
        if (whole.is_empty() && part.is_empty()) || part.contains('.') {
            return None;
        }
        let (form, factor, power) = scale(suffix)?;
        let mut nanos: i128 = 0;
        let mut dust = false;
        // Digits as nanos: those of the fraction go below one.
        let digits = whole.bytes().chain(part.bytes());
        for digit in digits {
            nanos = nanos
                .checked_mul(10)?
                .checked_add(i128::from(digit - b'0'))
                .filter(|n| *n < i128::MAX / 100)?;
        }
        nanos = nanos.saturating_mul(factor);
        let shift = power + 9 - i32::try_from(part.len()).ok()?;
        for _ in 0..shift.clamp(0, 60) {
            nanos = nanos.saturating_mul(10);
        }
        for _ in 0..(-shift).clamp(0, 60) {
            dust |= nanos % 10 != 0;
            nanos /= 10;
        }
        let most = i128::from(i64::MAX) * NANO;
        let nanos = (nanos + i128::from(dust)).min(most);
        Some(Quantity { nanos: if negative { -nanos } else { nanos }, form })
    }

    pub(crate) fn is_negative(&self) -> bool {
        self.nanos < 0
    }

    pub(crate) fn is_zero(&self) -> bool {
        self.nanos == 0
    }

    /// The one way in which this amount is written.
    pub(crate) fn canonical(&self) -> String {
        if self.nanos == 0 {
            return "0".to_owned();
        }
        let whole = self.nanos % NANO == 0;
        let binary = self.form == Form::Binary && self.nanos.abs() >= 1024 * NANO;
        if binary {
            // Parts of a byte are one more.
            let mut number = self.nanos / NANO + i128::from(!whole && self.nanos > 0);
            let mut suffix = "";
            for next in BINARY {
                if number % 1024 != 0 {
                    break;
                }
                number /= 1024;
                suffix = next;
            }
            return format!("{number}{suffix}");
        }
        let (mut number, mut power) = (self.nanos, -9);
        while number % 1000 == 0 && power < 18 {
            number /= 1000;
            power += 3;
        }
        let suffix = DECIMAL.iter().find(|(_, exponent)| *exponent == power).map_or("", |(suffix, _)| suffix);
        match self.form {
            Form::Exponent if power != 0 => format!("{number}e{power}"),
            _ => format!("{number}{suffix}"),
        }
    }
}

/// The form of a suffix, what it multiplies by, and the power of ten.
fn scale(suffix: &str) -> Option<(Form, i128, i32)> {
    if let Some(at) = BINARY.iter().position(|name| *name == suffix) {
        return Some((Form::Binary, 1_i128 << (10 * (at + 1)), 0));
    }
    if let Some((_, power)) = DECIMAL.iter().find(|(name, _)| *name == suffix) {
        return Some((Form::Decimal, 1, *power));
    }
    let power = suffix.strip_prefix(['e', 'E'])?;
    Some((Form::Exponent, 1, power.parse().ok().filter(|power| (-60..=60).contains(power))?))
}

#[cfg(test)]
mod tests {
    use super::Quantity;

    /// D19: amounts have one form.
    #[test]
    fn amounts_have_one_form() {
        let cases = [
            ("1", "1"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1024Mi", "1Gi"),
            ("1500Mi", "1500Mi"),
            ("2048M", "2048M"),
            ("1e3", "1e3"),
            ("1000", "1k"),
            ("10000", "10k"),
            ("0.5Gi", "512Mi"),
            ("100Ki", "100Ki"),
            ("0", "0"),
            ("512", "512"),
            ("-1", "-1"),
            ("1.1Ki", "1127"),
            ("0.0000000001", "1n"),
            ("1E", "1E"),
            ("1e-3", "1e-3"),
            ("+5", "5"),
            (".5", "500m"),
            ("5.", "5"),
            ("1Ki", "1Ki"),
            ("0.5Ki", "512"),
            ("100000000000000000000", "9223372036854775807"),
        ];
        for (text, wanted) in cases {
            assert_eq!(
                Quantity::parse(text).map(|quantity| quantity.canonical()).as_deref(),
                Some(wanted),
                "{text}"
            );
        }
        for text in ["", "lots", "1.2.3", "1ki", "1 Gi", "--1", "1e", ".", "1eE3", "0x10"] {
            assert!(Quantity::parse(text).is_none(), "{text}");
        }
    }
}
