"""How every page looks: one HTML file that needs nothing else, light or dark as the reader prefers."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from html import escape

_STYLE = """
:root{--bg:#f6f7f9;--card:#fff;--ink:#1d2329;--soft:#5c6670;--line:#e3e7eb;--accent:#0072B2;--code:#f1f3f5}
@media(prefers-color-scheme:dark){:root{--bg:#0e1114;--card:#15191e;--ink:#e8ecf0;--soft:#a3adb8;--line:#2b323a;
--accent:#5BB8F0;--code:#1d2329}}
*{box-sizing:border-box}body{margin:0;background:var(--bg);color:var(--ink);
font:15px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
main{max-width:900px;margin:0 auto;padding:36px 20px 60px}
h1{font-size:28px;line-height:1.2;margin:0 0 4px;overflow-wrap:anywhere}
h2{font-size:18px;margin:0 0 12px}p{margin:0 0 12px}
.soft{color:var(--soft)}.card{background:var(--card);border:1px solid var(--line);border-radius:12px;
padding:20px 22px;margin:18px 0;overflow-x:auto}
.tiles{display:grid;grid-template-columns:repeat(auto-fit,minmax(165px,1fr));gap:14px;margin:22px 0 0}
.tile{background:var(--card);border:1px solid var(--line);border-radius:12px;padding:14px 18px}
.tile b{display:block;font-size:25px;line-height:1.25;font-variant-numeric:tabular-nums}
.tile span{color:var(--soft);font-size:13px}
svg{width:100%;height:auto;display:block}
table{border-collapse:collapse;width:100%}td,th{text-align:left;padding:5px 14px 5px 0;vertical-align:top;
border-bottom:1px solid var(--line)}tr:last-child td{border-bottom:0}td:first-child{color:var(--soft);
white-space:nowrap;width:1%}td{font-variant-numeric:tabular-nums;overflow-wrap:anywhere}
.figures td,.figures th{text-align:right;white-space:nowrap;width:auto}
.figures th{font-weight:600;vertical-align:bottom;white-space:normal}
.figures td:first-child,.figures th:first-child{text-align:left;min-width:140px;max-width:280px;white-space:normal}
pre{background:var(--code);border-radius:8px;padding:12px 14px;margin:0 0 12px;white-space:pre-wrap;
overflow-wrap:anywhere;font:13px/1.5 ui-monospace,SFMono-Regular,Menlo,Consolas,monospace}
pre mark{background:none;color:var(--accent)}ul{margin:0;padding-left:20px}
code{background:var(--code);border-radius:5px;padding:1px 6px;font:13px/1.6 ui-monospace,SFMono-Regular,Menlo,Consolas,
monospace;overflow-wrap:anywhere}.pieces{line-height:2}.pieces span{display:inline-block;margin-right:10px}
.pieces small{color:var(--soft);margin-left:4px}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(380px,100%),1fr));gap:0 18px}
.grid .card{margin:9px 0}details summary{cursor:pointer;color:var(--soft)}
"""


def html_page(title: str, subtitle: str, sections: Iterable[str]) -> str:
    """A whole page. title, subtitle: text. sections: HTML; empty ones take no room."""
    return (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width,initial-scale=1">'
        f"<title>{escape(title)} · Lilliput</title><style>{_STYLE}</style></head><body><main>"
        f'<h1>{escape(title)}</h1><p class="soft">{escape(subtitle)}</p>'
        f"{''.join(sections)}</main></body></html>\n"
    )


def card(title: str, body: str) -> str:
    """A titled box around HTML; nothing where there is nothing to show."""
    return f'<section class="card"><h2>{escape(title)}</h2>{body}</section>' if body else ""


def tiles(pairs: Sequence[tuple[str, str]]) -> str:
    """A row of figures, each a large text over a small one."""
    cells = "".join(f'<div class="tile"><b>{escape(a)}</b><span>{escape(b)}</span></div>' for a, b in pairs)
    return f'<div class="tiles">{cells}</div>' if cells else ""


def note(text: str) -> str:
    """A paragraph beside the figures."""
    return f"<p class='soft'>{escape(text)}</p>" if text else ""


def figures(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A table of numbers: names on the left, figures flush right; nothing without rows."""
    if not rows:
        return ""
    top = "".join(f"<th>{escape(cell)}</th>" for cell in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(cell)}</td>" for cell in row) + "</tr>" for row in rows)
    return f'<table class="figures"><tr>{top}</tr>{body}</table>'


def bullets(lines: Iterable[str]) -> str:
    """A list of sentences; nothing where there are none."""
    items = "".join(f"<li>{escape(line)}</li>" for line in lines)
    return f"<ul>{items}</ul>" if items else ""
