//! Pieces of pages: escaping, states, times, tables; the style and the script.

use std::fmt::Write;

use crate::model::Moment;
use crate::ops::status::Weight;
use crate::plan::restore::show;
use crate::words::duration;

/// The style of all pages.
pub(super) const STYLE: &str = include_str!("style.css");
/// The script of all pages: ages that grow, a page that keeps itself fresh. Everything can be read without it.
pub(super) const SCRIPT: &str = include_str!("live.js");

/// Text, and values of attributes: what a source is called, what an error says.
pub fn text(raw: &str) -> String {
    let mut safe = String::with_capacity(raw.len());
    for c in raw.chars() {
        match c {
            '&' => safe.push_str("&amp;"),
            '<' => safe.push_str("&lt;"),
            '>' => safe.push_str("&gt;"),
            '"' => safe.push_str("&quot;"),
            '\'' => safe.push_str("&#39;"),
            c if c.is_control() => safe.push(' '),
            c => safe.push(c),
        }
    }
    safe
}

/// A part of a URL's path.
pub(super) fn path(raw: &str) -> String {
    percent_encoding::utf8_percent_encode(raw, percent_encoding::NON_ALPHANUMERIC).to_string()
}

/// A state's class and word: told by word and sign, not by colour alone.
pub(super) fn state(weight: Weight) -> (&'static str, &'static str) {
    match weight {
        Weight::Fine => ("fine", "✓ fine"),
        Weight::Warning => ("warning", "! warning"),
        Weight::Missed => ("missed", "✗ objective missed"),
        Weight::Damaged => ("damaged", "✗ cannot be restored"),
    }
}

/// The state as a badge.
pub(super) fn badge(weight: Weight) -> String {
    let (class, word) = state(weight);
    format!("<span class=\"badge {class}\">{word}</span>")
}

/// A moment.
pub(super) fn moment(at: Option<Moment>) -> String {
    at.map_or_else(|| "–".to_owned(), |at| format!("<time datetime=\"{0}\">{0}</time>", text(&show(at))))
}

/// An age that grows while the page is looked at.
pub(super) fn age(of: Option<Moment>, now: Moment) -> String {
    let Some(of) = of else { return "–".to_owned() };
    let ms = of.timestamp_millis();
    let seconds = (now - of).num_seconds().max(0) as f64;
    format!("<span class=age data-since=\"{ms}\">{}</span>", duration(seconds))
}

pub(super) fn ms(ms: Option<u64>) -> String {
    ms.map_or_else(|| "–".to_owned(), |ms| duration(ms as f64 / 1000.0))
}

/// How a page begins. `back` is a link to the overview.
pub(super) fn begin(title: &str, back: bool, now: Moment) -> String {
    let (title, now) = (text(title), now.timestamp_millis());
    let back = if back { "<p><a href=\"/\">← all sources</a></p>" } else { "" };
    format!(
        "<!doctype html>\n<html lang=en data-now=\"{now}\"><head><meta charset=utf-8><meta name=viewport content=\"width=device-width,initial-scale=1\">\
         <meta name=color-scheme content=\"light dark\"><meta name=robots content=noindex><title>{title}</title>\
         <link rel=icon href=\"/icon.svg\"><link rel=stylesheet href=\"/style.css\"><script src=\"/live.js\" defer></script></head>\n\
         <body><a class=skip href=\"#main\">Skip to the content</a><main id=main>{back}<h1>{title}</h1>\n"
    )
}

/// How it ends.
pub(super) fn end(page: &mut String, made: Moment) {
    let _ = writeln!(
        page,
        "<footer><p>As of {}. Nothing on this page changes or runs anything.</p></footer></main></body></html>",
        moment(Some(made))
    );
}

/// The head of a table, with a caption for those who do not see where it stands. `#` before a head: numbers.
pub(super) fn table(page: &mut String, caption: &str, heads: &[&str]) {
    let _ = write!(
        page,
        "<div class=scroll tabindex=0 role=region aria-label=\"{0}\"><table><caption>{0}</caption><thead><tr>",
        text(caption)
    );
    for head in heads {
        // What is counted stands on the right, as its numbers do.
        let (class, head) = head.strip_prefix('#').map_or(("", *head), |head| (" class=n", head));
        let _ = write!(page, "<th scope=col{class}>{}", text(head));
    }
    page.push_str("</thead><tbody>\n");
}

pub(super) fn end_table(page: &mut String) {
    page.push_str("</tbody></table></div>\n");
}

/// The sign in the browser's tab.
pub(super) const ICON: &str = "<svg xmlns=\"http://www.w3.org/2000/svg\" viewBox=\"0 0 32 32\"><circle cx=16 cy=16 r=11 fill=\"none\" \
    stroke=\"#d9532c\" stroke-width=\"7\"/><path d=\"M16 1v8M16 23v8M1 16h8M23 16h8\" stroke=\"#fff\" stroke-width=\"6\"/></svg>";

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_comes_from_outside_is_text() {
        assert_eq!(text("<b a='x' b=\"y\">&\n"), "&lt;b a=&#39;x&#39; b=&quot;y&quot;&gt;&amp; ");
        assert_eq!(path("a/../b?c#d"), "a%2F%2E%2E%2Fb%3Fc%23d");
    }
}
