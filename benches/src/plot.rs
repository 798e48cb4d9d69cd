//! The pictures of the page, as SVG.

use plotters::coord::Shift;
use plotters::prelude::*;
use plotters::style::text_anchor::{HPos, Pos, VPos};

use crate::stats::Summary;
use crate::tables::number;

/// What went wrong in drawing.
pub(crate) type Failed = Box<dyn std::error::Error>;
type Area<'a> = DrawingArea<SVGBackend<'a>, Shift>;

const INK: RGBColor = RGBColor(31, 41, 55);
const FAINT: RGBColor = RGBColor(107, 114, 128);
const GRID: RGBColor = RGBColor(229, 231, 235);
const FONT: &str = "sans-serif";

/// The colour of whoever is measured, the same in all pictures.
pub(crate) fn colour(subject: &str) -> RGBColor {
    match subject {
        "TFO warm" | "tfo-http" | "tfo-http-server" | "tfo serve" => RGBColor(37, 99, 235),
        "TFO cookie-less" | "tfo-http-server, 2 workers" | "tfo-http-server, FIN with the answer" => {
            RGBColor(14, 165, 233)
        }
        "TFO cold" | "tfo-http, off" | "tfo-http-server, 1 worker" => RGBColor(147, 197, 253),
        "those system calls alone" => RGBColor(209, 213, 219),
        "plain" | "HttpConnector" | "naive hyper" => RGBColor(107, 114, 128),
        "curl --tcp-fastopen" | "tokio-tfo" | "nginx" | "nginx, 2 workers" => RGBColor(234, 88, 12),
        "nginx, 1 worker" => RGBColor(253, 186, 116),
        "curl" | "wrk, plain" | "haproxy" => RGBColor(202, 138, 4),
        "blocking sockets, TFO" => RGBColor(168, 85, 247),
        _ => RGBColor(37, 99, 235),
    }
}

fn style(size: i32, colour: &RGBColor, at: HPos) -> TextStyle<'_> {
    (FONT, size).into_font().color(colour).pos(Pos::new(at, VPos::Center))
}

/// One line of a line chart: its name, and its points with their bounds.
pub(crate) struct Line<'a> {
    pub(crate) name: &'a str,
    pub(crate) points: Vec<(f64, Summary)>,
}

/// A line chart; `limits` are drawn behind the lines, dashed.
pub(crate) struct Lines<'a> {
    pub(crate) x: &'a str,
    pub(crate) y: &'a str,
    /// Whether x is logarithmic.
    pub(crate) log: bool,
    pub(crate) lines: Vec<Line<'a>>,
    pub(crate) limits: Vec<Limit<'a>>,
}

/// A name and its points.
pub(crate) type Limit<'a> = (&'a str, Vec<(f64, f64)>);

impl Lines<'_> {
    pub(crate) fn svg(&self, (width, height): (u32, u32)) -> Result<String, Failed> {
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (width, height)).into_drawing_area();
            root.fill(&WHITE)?;
            self.draw(&root, width as i32)?;
            root.present()?;
        }
        Ok(svg)
    }

    fn draw(&self, root: &Area<'_>, width: i32) -> Result<(), Failed> {
        let points = || self.lines.iter().flat_map(|line| &line.points);
        let limits = || self.limits.iter().flat_map(|(_, points)| points);
        let xs: Vec<_> = points().map(|(x, _)| *x).chain(limits().map(|(x, _)| *x)).collect();
        let ys = points().map(|(_, value)| value.median).chain(limits().map(|(_, y)| *y));
        let most = ys.fold(0.0, f64::max);
        let (first, last) = xs.iter().fold((f64::MAX, f64::MIN), |(a, b), x| (a.min(*x), b.max(*x)));
        let (plot, legend) = root.split_horizontally(width - 190);
        let mut builder = ChartBuilder::on(&plot);
        builder.margin(12).x_label_area_size(44).y_label_area_size(60);
        let label = |value: &f64| tick(*value);
        // The two kinds of axes are different types.
        macro_rules! draw {
            ($chart:expr) => {{
                let mut chart = $chart;
                let mut mesh = chart.configure_mesh();
                mesh.x_labels(8).y_labels(8).x_label_formatter(&label).y_label_formatter(&label);
                mesh.x_desc(self.x).y_desc(self.y).light_line_style(WHITE.mix(0.0)).bold_line_style(GRID);
                mesh.axis_style(FAINT).label_style((FONT, 15).into_font().color(&FAINT)).draw()?;
                for (_, points) in &self.limits {
                    let points = points.iter().copied();
                    chart.draw_series(DashedLineSeries::new(points, 5, 4, FAINT.stroke_width(1)))?;
                }
                // The first of them lie on top.
                for line in self.lines.iter().rev() {
                    let colour = colour(line.name);
                    let medians = line.points.iter().map(|(x, value)| (*x, value.median));
                    chart.draw_series(LineSeries::new(medians.clone(), colour.stroke_width(2)))?;
                    chart.draw_series(medians.map(|point| Circle::new(point, 3, colour.filled())))?;
                }
            }};
        }
        let y_range = 0.0..most * 1.12;
        if self.log {
            draw!(builder.build_cartesian_2d((first / 1.15..last * 1.15).log_scale(), y_range)?);
        } else {
            draw!(builder.build_cartesian_2d(0.0..last * 1.05, y_range)?);
        }
        let mut at = 30;
        for line in &self.lines {
            let colour = colour(line.name);
            legend.draw(&PathElement::new(vec![(4, at), (26, at)], colour.stroke_width(2)))?;
            legend.draw(&Circle::new((15, at), 3, colour.filled()))?;
            legend.draw(&Text::new(line.name.to_owned(), (34, at), style(16, &INK, HPos::Left)))?;
            at += 22;
        }
        for (name, _) in &self.limits {
            for dash in [4, 13, 22] {
                legend.draw(&PathElement::new(vec![(dash, at), (dash + 5, at)], FAINT.stroke_width(1)))?;
            }
            legend.draw(&Text::new((*name).to_owned(), (34, at), style(16, &INK, HPos::Left)))?;
            at += 22;
        }
        Ok(())
    }
}

fn tick(value: f64) -> String {
    if value >= 1.0 || value == 0.0 { format!("{value:.0}") } else { format!("{value}") }
}

/// One bar, or the reason why there is none.
pub(crate) struct Bar<'a> {
    pub(crate) subject: &'a str,
    pub(crate) value: Result<Summary, &'a str>,
    /// Said behind the number.
    pub(crate) note: String,
}

/// Bars that lie, in groups.
pub(crate) struct Bars<'a> {
    pub(crate) groups: Vec<(&'a str, Vec<Bar<'a>>)>,
    pub(crate) unit: &'a str,
    /// Logarithmic from this value on; linear from 0 otherwise.
    pub(crate) log_from: Option<f64>,
    /// Whether bars say whose they are; else the legend does.
    pub(crate) named: bool,
}

impl Bars<'_> {
    pub(crate) fn svg(&self, width: u32) -> Result<String, Failed> {
        const ROW: i32 = 20;
        const GAP: i32 = 12;
        let rows: usize = self.groups.iter().map(|(_, bars)| bars.len()).sum();
        let title = if self.named { 22 } else { 0 };
        let legend = if self.named { 6 } else { 30 };
        let height = legend + rows as i32 * ROW + self.groups.len() as i32 * (GAP + title) + 8;
        // Room for the longest name; a letter is 7.
        let named = self.groups.iter().flat_map(|(_, bars)| bars).filter(|_| self.named);
        let left = named.map(|bar| 20 + 7 * bar.subject.len() as i32).fold(190, i32::max);
        let room = f64::from(width as i32 - left - 330);
        let values = self.groups.iter().flat_map(|(_, bars)| bars).filter_map(|bar| bar.value.as_ref().ok());
        let most = values
            .map(|value| value.bounds.map_or(value.median, |[_, high]| high.max(value.median)))
            .fold(0.0, f64::max);
        let length = |value: f64| match self.log_from {
            Some(from) => ((value / from).ln() / (most / from).ln()).clamp(0.0, 1.0) * room,
            None => value / most * room,
        };
        let mut svg = String::new();
        {
            let root = SVGBackend::with_string(&mut svg, (width, height as u32)).into_drawing_area();
            root.fill(&WHITE)?;
            let mut at = legend;
            if !self.named
                && let Some((_, bars)) = self.groups.first()
            {
                let mut x = left;
                for bar in bars {
                    root.draw(&Rectangle::new([(x, 8), (x + 12, 20)], colour(bar.subject).filled()))?;
                    root.draw(&Text::new(bar.subject.to_owned(), (x + 18, 14), style(16, &INK, HPos::Left)))?;
                    x += 44 + 8 * bar.subject.len() as i32;
                }
            }
            for (name, bars) in &self.groups {
                if self.named {
                    root.draw(&Text::new((*name).to_owned(), (8, at + 11), style(17, &INK, HPos::Left)))?;
                    at += title;
                } else {
                    let middle = at + bars.len() as i32 * ROW / 2;
                    root.draw(&Text::new(
                        (*name).to_owned(),
                        (left - 10, middle),
                        style(16, &INK, HPos::Right),
                    ))?;
                }
                for bar in bars {
                    let middle = at + ROW / 2;
                    if self.named {
                        root.draw(&Text::new(
                            bar.subject.to_owned(),
                            (left - 10, middle),
                            style(16, &INK, HPos::Right),
                        ))?;
                    }
                    match &bar.value {
                        Ok(value) => {
                            let end = left + length(value.median) as i32;
                            let colour = colour(bar.subject);
                            root.draw(&Rectangle::new(
                                [(left, at + 2), (end, at + ROW - 2)],
                                colour.filled(),
                            ))?;
                            let mut text = end;
                            if let Some([low, high]) = value.bounds {
                                let (low, high) = (left + length(low) as i32, left + length(high) as i32);
                                root.draw(&PathElement::new(
                                    vec![(low, middle), (high, middle)],
                                    INK.stroke_width(1),
                                ))?;
                                for x in [low, high] {
                                    root.draw(&PathElement::new(
                                        vec![(x, middle - 4), (x, middle + 4)],
                                        INK.stroke_width(1),
                                    ))?;
                                }
                                text = text.max(high);
                            }
                            let said = format!("{} {}{}", number(value.median), self.unit, bar.note);
                            root.draw(&Text::new(said, (text + 8, middle), style(16, &INK, HPos::Left)))?;
                        }
                        Err(why) => {
                            let said = format!("not measured: {why}");
                            root.draw(&Text::new(said, (left + 4, middle), style(15, &FAINT, HPos::Left)))?;
                        }
                    }
                    at += ROW;
                }
                at += GAP;
            }
            root.present()?;
        }
        Ok(svg)
    }
}
