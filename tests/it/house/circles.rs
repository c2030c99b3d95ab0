//! No file imports a file that, over others, imports it. So each file can be read after those that it imports.
//!
//! An import counts for the file that defines the name, through whatever re-exports. A folder's file does not import its
//! own parts by re-exporting them. Not followed: a name from the crate's root, what a glob brings in, and `super` within a
//! module that has no file of its own.

use std::{
    collections::{BTreeMap, BTreeSet, VecDeque},
    path::Path,
};

use syn::{
    Attribute, ItemMod, ItemUse, UseTree, Visibility,
    visit::{self, Visit},
};

use super::sources;

/// A module or a name in it: `["store", "sql", "rows"]`.
type Name = Vec<String>;

/// The imports of a crate's files.
struct Crate {
    name: &'static str,
    files: BTreeMap<Name, Vec<Import>>,
}

/// A name that a file refers to.
struct Import {
    path: Name,
    is_reexport: bool,
}

#[derive(Default)]
struct Imports(Vec<Import>);

impl<'ast> Visit<'ast> for Imports {
    fn visit_item_mod(&mut self, module: &'ast ItemMod) {
        if !is_for_tests(&module.attrs) {
            visit::visit_item_mod(self, module);
        }
    }

    fn visit_item_use(&mut self, item: &'ast ItemUse) {
        if !is_for_tests(&item.attrs) {
            let is_reexport = !matches!(item.vis, Visibility::Inherited);
            self.add_tree(&item.tree, Vec::new(), is_reexport);
        }
    }

    fn visit_path(&mut self, path: &'ast syn::Path) {
        let names: Name = path.segments.iter().map(|segment| segment.ident.to_string()).collect();
        if names.len() > 1 && ["crate", "self", "super"].contains(&&*names[0]) {
            self.0.push(Import { path: names, is_reexport: false });
        }
        visit::visit_path(self, path);
    }
}

impl Imports {
    fn add_tree(&mut self, tree: &UseTree, mut path: Name, is_reexport: bool) {
        match tree {
            UseTree::Path(tree) => {
                path.push(tree.ident.to_string());
                self.add_tree(&tree.tree, path, is_reexport);
            }
            UseTree::Group(group) => {
                for tree in &group.items {
                    self.add_tree(tree, path.clone(), is_reexport);
                }
            }
            UseTree::Name(name) if name.ident == "self" => self.0.push(Import { path, is_reexport }),
            UseTree::Name(syn::UseName { ident }) | UseTree::Rename(syn::UseRename { ident, .. }) => {
                path.push(ident.to_string());
                self.0.push(Import { path, is_reexport });
            }
            UseTree::Glob(_) => self.0.push(Import { path, is_reexport }),
        }
    }
}

fn is_for_tests(attributes: &[Attribute]) -> bool {
    attributes.iter().any(|attribute| {
        let is_cfg = attribute.path().is_ident("cfg");
        let is_for_tests = |condition: String| condition == "test" || condition.contains("feature = \"testing\"");
        is_cfg && attribute.meta.require_list().is_ok_and(|list| is_for_tests(list.tokens.to_string()))
    })
}

impl Crate {
    fn read(name: &'static str, folder: &str) -> Self {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join(folder);
        let files = sources(folder).into_iter().map(|(path, text)| {
            let path = path.strip_prefix(&root).unwrap().with_extension("");
            let mut module: Name = path.iter().map(|part| part.to_str().unwrap().to_owned()).collect();
            if ["lib", "main", "mod"].contains(&module.last().unwrap().as_str()) {
                module.pop();
            }
            let mut imports = Imports::default();
            imports.visit_file(&syn::parse_file(&text).unwrap());
            (module, imports.0)
        });
        let mut crate_ = Self { name, files: BTreeMap::new() };
        for (module, imports) in files {
            crate_.files.entry(module).or_default().extend(imports);
        }
        crate_
    }

    /// A path as seen from the crate's root. `None`: another crate's.
    fn absolute(&self, module: &[String], path: &[String]) -> Option<Name> {
        let supers = path.iter().take_while(|part| *part == "super").count();
        match path[0].as_str() {
            "crate" => Some(path[1..].to_vec()),
            "self" => Some([module, &path[1..]].concat()),
            "super" => Some([&module[..module.len() - supers], &path[supers..]].concat()),
            first if self.files.contains_key(&[module, &path[..1]].concat()) => {
                debug_assert!(!first.is_empty());
                Some([module, path].concat())
            }
            first if first == self.name => Some(path[1..].to_vec()),
            _ => None,
        }
    }

    /// The file that defines a name.
    fn definer(&self, name: &[String], seen: &mut BTreeSet<Name>) -> Name {
        let length = (0..=name.len()).rev().find(|length| self.files.contains_key(&name[..*length])).unwrap_or(0);
        let (module, rest) = name.split_at(length);
        if let Some(first) = rest.first()
            && seen.insert([module, &rest[..1]].concat())
        {
            let reexports = self.files[module].iter().filter(|import| import.is_reexport);
            for import in reexports.filter(|import| import.path.last() == Some(first)) {
                if let Some(path) = self.absolute(module, &import.path) {
                    return self.definer(&path, seen);
                }
            }
        }
        module.to_vec()
    }

    fn edges(&self) -> BTreeMap<&Name, BTreeSet<Name>> {
        let mut edges: BTreeMap<&Name, BTreeSet<Name>> = BTreeMap::new();
        for (module, imports) in &self.files {
            let edges = edges.entry(module).or_default();
            for import in imports {
                let Some(path) = self.absolute(module, &import.path) else { continue };
                let definer = self.definer(&path, &mut BTreeSet::new());
                let is_own_part = import.is_reexport && definer.starts_with(module);
                if definer != *module && !definer.is_empty() && !is_own_part {
                    edges.insert(definer);
                }
            }
        }
        edges
    }

    /// The shortest way from a file back to it.
    fn circles(&self) -> Vec<String> {
        let edges = self.edges();
        let mut circles = Vec::new();
        for start in edges.keys() {
            let mut ways = VecDeque::from([vec![*start]]);
            let mut seen = BTreeSet::new();
            'search: while let Some(way) = ways.pop_front() {
                for next in edges.get(way[way.len() - 1]).into_iter().flatten() {
                    if next == *start {
                        let names = way.iter().chain([start]).map(|module| module.join("::"));
                        circles.push(names.collect::<Vec<_>>().join(" -> "));
                        break 'search;
                    }
                    if seen.insert(next) {
                        ways.push_back([way.clone(), vec![next]].concat());
                    }
                }
            }
        }
        circles
    }
}

#[test]
fn no_files_import_each_other() {
    for (name, folder) in [("oriva_hub_actors", "actors/src"), ("oriva_hub", "src")] {
        let read = Crate::read(name, folder);
        assert!(read.edges().values().map(BTreeSet::len).sum::<usize>() > 50, "{folder} was read");
        assert_eq!(read.circles(), Vec::<String>::new(), "{folder}");
    }
}

/// A circle over a re-export is one.
#[test]
fn a_circle_is_found() {
    let import = |path: &str, is_reexport| Import { path: path.split("::").map(str::to_owned).collect(), is_reexport };
    let name = |path: &str| path.split("::").map(str::to_owned).collect::<Name>();
    let files = BTreeMap::from([
        (vec![], vec![]),
        (name("a"), vec![import("b::B", true)]),
        (name("a::b"), vec![import("crate::c::C", false)]),
        (name("c"), vec![import("crate::a::B", false)]),
    ]);
    let found = Crate { name: "x", files }.circles();
    assert_eq!(found, ["a::b -> c -> a::b", "c -> a::b -> c"]);
}
