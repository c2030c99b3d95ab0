//! Charts as SVG: latency and rate over time, percentiles, connections against memory.

use std::path::Path;

use plotters::prelude::*;

use crate::{Failure, measure::Second, report::Report};

const SIZE: (u32, u32) = (960, 1080);

/// A named line of points.
type Line<'a> = (&'a str, RGBColor, Vec<(f64, f64)>);

/// Draws a report's three charts below each other.
///
/// # Errors
/// Where the file cannot be written.
pub fn draw(report: &Report, path: &Path) -> Result<(), Failure> {
    let broken = |error: &dyn std::fmt::Display| Failure::Answer(format!("chart: {error}"));
    let root = SVGBackend::new(path, SIZE).into_drawing_area();
    root.fill(&WHITE).map_err(|error| broken(&error))?;
    let areas = root.split_evenly((3, 1));
    let over_time = |pick: fn(&Second) -> f64| -> Vec<(f64, f64)> {
        report.by_second.iter().map(|second| (second.at_seconds, pick(second))).collect()
    };
    let has_sockets = report.totals.delivered > 0;
    let latency: [Line<'_>; 2] = if has_sockets {
        [
            ("delivery p50, ms", BLUE, over_time(|second| second.delivery.p50_us as f64 / 1000.0)),
            ("delivery p99, ms", RED, over_time(|second| second.delivery.p99_us as f64 / 1000.0)),
        ]
    } else {
        [
            ("answer p50, ms", BLUE, over_time(|second| second.answer.p50_us as f64 / 1000.0)),
            ("answer p99, ms", RED, over_time(|second| second.answer.p99_us as f64 / 1000.0)),
        ]
    };
    lines(&areas[0], &format!("{}: latency over time", report.scenario), "s", &latency)
        .map_err(|error| broken(&error))?;
    let total = if has_sockets { report.totals.delivery } else { report.totals.answer };
    let percentiles = [
        (50.0, total.p50_us),
        (90.0, total.p90_us),
        (99.0, total.p99_us),
        (99.9, total.p999_us),
        (100.0, total.max_us),
    ];
    let percentiles = percentiles.map(|(percent, us)| (percent, us as f64 / 1000.0)).to_vec();
    lines(&areas[1], "percentiles", "%", &[("ms", BLUE, percentiles)]).map_err(|error| broken(&error))?;
    let memory = |second: &Second| second.server.map_or(0.0, |server| server.memory_kib as f64 / 1024.0);
    let against: Vec<(f64, f64)> =
        report.by_second.iter().map(|second| (second.connections as f64, memory(second))).collect();
    lines(&areas[2], "connections against memory", "connections", &[("server, MiB", BLUE, against)])
        .map_err(|error| broken(&error))?;
    root.present().map_err(|error| broken(&error))
}

fn lines(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    title: &str,
    unit: &str,
    lines: &[Line<'_>],
) -> Result<(), Box<dyn std::error::Error>> {
    let points = || lines.iter().flat_map(|(_, _, points)| points.iter());
    let bound = |values: Vec<f64>| {
        (values.iter().copied().fold(f64::MAX, f64::min), values.iter().copied().fold(0.0, f64::max))
    };
    let (left, right) = bound(points().map(|point| point.0).collect());
    let (_, top) = bound(points().map(|point| point.1).collect());
    let mut chart = ChartBuilder::on(area)
        .caption(title, ("sans-serif", 18))
        .margin(12)
        .x_label_area_size(32)
        .y_label_area_size(56)
        .build_cartesian_2d(left.min(right)..right.max(left + 1.0), 0.0..(top * 1.1).max(0.001))?;
    chart.configure_mesh().x_desc(unit).draw()?;
    for (name, colour, points) in lines {
        let colour = *colour;
        chart
            .draw_series(LineSeries::new(points.iter().copied(), colour.stroke_width(2)))?
            .label(*name)
            .legend(move |(x, y)| PathElement::new(vec![(x, y), (x + 16, y)], colour));
        chart.draw_series(points.iter().map(|point| Circle::new(*point, 2, colour.filled())))?;
    }
    chart.configure_series_labels().background_style(WHITE.mix(0.8)).border_style(BLACK).draw()?;
    Ok(())
}
