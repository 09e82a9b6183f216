//! A metrics page, in the OpenMetrics text format.

use std::collections::BTreeMap;

/// Samples by name and labels.
#[derive(Clone, Debug, Default)]
pub struct Metrics {
    samples: Vec<Sample>,
}

/// One line of the page.
#[derive(Clone, Debug, PartialEq)]
pub struct Sample {
    /// The name, with its suffix such as `_total`.
    pub name: String,
    /// The labels.
    pub labels: BTreeMap<String, String>,
    /// The value.
    pub value: f64,
}

impl Metrics {
    /// Reads a page. Lines that are no samples are skipped.
    pub fn parse(page: &str) -> Self {
        let lines = page.lines().filter(|line| !line.starts_with('#'));
        Self { samples: lines.filter_map(sample).collect() }
    }

    /// All samples.
    pub fn samples(&self) -> &[Sample] {
        &self.samples
    }

    /// The sum of the samples of `name` that have all these labels. 0 if there are none.
    pub fn sum(&self, name: &str, labels: &[(&str, &str)]) -> f64 {
        let of_name = self.samples.iter().filter(|sample| sample.name == name);
        let matching = of_name.filter(|sample| {
            labels
                .iter()
                .all(|(key, value)| sample.labels.get(*key).is_some_and(|has| has == value))
        });
        // Not `sum`, whose neutral element is -0.
        matching.fold(0.0, |sum, sample| sum + sample.value)
    }
}

fn sample(line: &str) -> Option<Sample> {
    let (series, value) = match line.split_once('}') {
        Some((series, value)) => (series, value),
        None => line.split_once(' ')?,
    };
    let (name, labels) = series.split_once('{').unwrap_or((series, ""));
    let value = value.split_whitespace().next()?.parse().ok()?;
    Some(Sample { name: name.to_owned(), labels: pairs(labels)?, value })
}

/// `a="x",b="y"`: our labels hold neither quotes nor braces.
fn pairs(labels: &str) -> Option<BTreeMap<String, String>> {
    let mut pairs = BTreeMap::new();
    let mut rest = labels;
    while let Some((key, after)) = rest.split_once("=\"") {
        let (value, after) = after.split_once('"')?;
        pairs.insert(key.trim_start_matches(',').to_owned(), value.to_owned());
        rest = after;
    }
    Some(pairs)
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = "# TYPE mesh_open gauge
mesh_open 3
mesh_closed_total{side=\"a,b\",code=\"tls\"} 4
mesh_closed_total{side=\"c\",code=\"tls\"} 0.5 1700000000
# EOF
";

    fn check(name: &str, labels: &[(&str, &str)], expect: &str) {
        assert_eq!(Metrics::parse(PAGE).sum(name, labels).to_string(), expect);
    }

    #[test]
    fn samples_are_summed_over_labels_that_are_not_asked_for() {
        check("mesh_open", &[], "3");
        check("mesh_closed_total", &[("code", "tls")], "4.5");
        check("mesh_closed_total", &[("code", "tls"), ("side", "a,b")], "4");
    }

    #[test]
    fn what_is_not_there_is_zero() {
        check("mesh_closed_total", &[("code", "reset")], "0");
        check("mesh_closed", &[], "0");
    }
}
