//! Where what lies in an export: `_tables/documents.jsonl`, `<table>/documents.jsonl`, `_storage/<id><ext>`, and the same below
//! `_components/<name>/` for each component. A snapshot has the same layout.

/// What a path of an export is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Part<'p> {
    /// `_tables/documents.jsonl`: names and numbers of the component's tables.
    Tables,
    /// `<table>/documents.jsonl`
    Documents(&'p str),
    /// `<table>/generated_schema.jsonl`
    Schema(&'p str),
    /// `_storage/documents.jsonl`
    FileList,
    /// `_storage/<id><ext>`: the id.
    Blob(&'p str),
    /// Anything else.
    Other,
}

/// What a path is, and the path of its component (`a/b`; empty for the root).
pub fn place_of(path: &str) -> (String, Part<'_>) {
    let (mut component, mut rest) = (String::new(), path);
    while let Some(tail) = rest.strip_prefix("_components/") {
        let Some((name, below)) = tail.split_once('/') else { return (component, Part::Other) };
        if !component.is_empty() {
            component.push('/');
        }
        component.push_str(name);
        rest = below;
    }
    let part = match rest.split_once('/') {
        Some(("_tables", "documents.jsonl")) => Part::Tables,
        Some(("_storage", "documents.jsonl")) => Part::FileList,
        Some(("_storage", blob)) if !blob.contains('/') => Part::Blob(blob.split_once('.').map_or(blob, |(id, _)| id)),
        Some((table, _)) if table.starts_with(['_', '.']) || table.is_empty() => Part::Other,
        Some((table, "documents.jsonl")) => Part::Documents(table),
        Some((table, "generated_schema.jsonl")) => Part::Schema(table),
        _ => Part::Other,
    };
    (component, part)
}

/// What stands before the paths of a component: `_components/a/_components/b/`.
pub fn component_prefix(component: &str) -> String {
    component.split('/').filter(|name| !name.is_empty()).map(|name| format!("_components/{name}/")).collect()
}

/// A table with its component, as people write it: `users`, `component/users`.
pub fn full_name(component: &str, table: &str) -> String {
    if component.is_empty() { table.to_owned() } else { format!("{component}/{table}") }
}

/// The end of a blob's name by its content type. It is for people: the type itself stands in the list of files.
pub fn extension_of(content_type: Option<&str>) -> &'static str {
    match content_type.map(|text| text.split(';').next().unwrap_or(text).trim()) {
        Some("image/png") => ".png",
        Some("image/jpeg") => ".jpg",
        Some("image/gif") => ".gif",
        Some("image/webp") => ".webp",
        Some("image/svg+xml") => ".svg",
        Some("text/plain") => ".txt",
        Some("text/csv") => ".csv",
        Some("text/html") => ".html",
        Some("application/json") => ".json",
        Some("application/pdf") => ".pdf",
        Some("application/zip") => ".zip",
        Some("application/octet-stream") => ".bin",
        Some("video/mp4") => ".mp4",
        Some("video/webm") => ".webm",
        Some("audio/mpeg") => ".mpga",
        Some("audio/wav") => ".wav",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_path_of_an_export_is_known() {
        for (path, component, part) in [
            ("README.md", "", Part::Other),
            ("_tables/documents.jsonl", "", Part::Tables),
            ("_components/a/_tables/documents.jsonl", "a", Part::Tables),
            ("users/documents.jsonl", "", Part::Documents("users")),
            ("_components/a/_components/b/users/generated_schema.jsonl", "a/b", Part::Schema("users")),
            ("_storage/documents.jsonl", "", Part::FileList),
            ("_storage/kg27rxfv99gzp01wmph0gvt92d6hnvy6.png", "", Part::Blob("kg27rxfv99gzp01wmph0gvt92d6hnvy6")),
            ("_components/a/_storage/x", "a", Part::Blob("x")),
            ("_scheduled_functions/documents.jsonl", "", Part::Other),
            (".lifeboat/convex/parts.json", "", Part::Other),
            ("users/more/documents.jsonl", "", Part::Other),
            ("_components/a", "", Part::Other),
            ("", "", Part::Other),
        ] {
            assert_eq!(place_of(path), (component.to_owned(), part), "{path}");
        }
        assert_eq!(component_prefix("a/b"), "_components/a/_components/b/");
        assert_eq!(component_prefix(""), "");
    }
}
