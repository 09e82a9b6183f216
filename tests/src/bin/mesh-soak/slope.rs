//! A line through points some of which are far off it.

/// The slope of the line through points (Theil and Sen): the median of the slopes between all pairs of
/// them. A third of the points may be anywhere and move it little. 0 of fewer than two.
pub(crate) fn median(points: &[(f64, f64)]) -> f64 {
    let mut slopes = Vec::new();
    for (index, (x, y)) in points.iter().enumerate() {
        let later = points.iter().skip(index + 1).filter(|(later, _)| later > x);
        slopes.extend(later.map(|(to, height)| (height - y) / (to - x)));
    }
    slopes.sort_unstable_by(f64::total_cmp);
    slopes.get(slopes.len() / 2).copied().unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn points_far_off_do_not_count() {
        assert!(median(&[]).abs() < f64::EPSILON);
        assert!(median(&[(1.0, 5.0), (1.0, 9.0)]).abs() < f64::EPSILON);
        let line = |x: u32| (f64::from(x), 7.0 + 2.0 * f64::from(x));
        let mut points: Vec<_> = (0..30).map(line).collect();
        assert!((median(&points) - 2.0).abs() < 1e-9);
        for point in points.iter_mut().step_by(5) {
            point.1 += 5_000.0;
        }
        assert!((median(&points) - 2.0).abs() < 0.5, "{}", median(&points));
        // What grew once and stays is no growth.
        let step = |x: u32| (f64::from(x), if x < 4 { 100.0 } else { 900.0 });
        assert!(median(&(0..40).map(step).collect::<Vec<_>>()).abs() < 1e-9);
    }
}
