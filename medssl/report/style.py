"""The look of the page: one style sheet for screen, phone, print, light and dark."""

from __future__ import annotations

__all__ = ["STYLE"]

# Series colours are Okabe and Ito's, told apart with any colour vision; darker and lighter ones keep a contrast of at
# least 3:1 on the two backgrounds. Shapes and labels carry the same information again.
STYLE = """
:root{--bg:#fff;--fg:#1b1f24;--muted:#57606a;--line:#d0d7de;--card:#f6f8fa;--accent:#0550ae;--grid:#e6eaee;
--s0:#5b6068;--s1:#0072b2;--s2:#b34700;--s3:#00795a;--s4:#a3487a;--s5:#8a6d00;--s6:#4b4fb8;--good:#00694d;--bad:#a83200}
@media screen and (prefers-color-scheme:dark){:root{--bg:#14171c;--fg:#e6e9ee;--muted:#a3acb8;--line:#39414c;
--card:#1d2229;--accent:#79b8ff;--grid:#2a313a;--s0:#b0b7c1;--s1:#5ab4f0;--s2:#f08a4b;--s3:#35c79a;--s4:#e59ac4;--s5:#e3c34a;
--s6:#a3a8ff;--good:#4fd1a5;--bad:#ff9c73}}
*{box-sizing:border-box}
html{scroll-behavior:smooth;-webkit-text-size-adjust:100%}
@media (prefers-reduced-motion:reduce){html{scroll-behavior:auto}}
body{margin:0;background:var(--bg);color:var(--fg);font:16px/1.55 system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
header,main,footer,nav{max-width:68rem;margin:0 auto;padding:0 1.1rem}
header{padding-top:1.6rem}
h1{font-size:1.7rem;line-height:1.25;margin:.2rem 0 .6rem}
h2{font-size:1.25rem;margin:0 0 .7rem;padding-top:1.4rem;border-top:1px solid var(--line)}
h3{font-size:1.02rem;margin:1.2rem 0 .4rem}
p{margin:.5rem 0;max-width:46rem}
a{color:var(--accent)}
.verdict{font-size:1.15rem;line-height:1.5;border-left:.35rem solid var(--accent);background:var(--card);
padding:.9rem 1.1rem;border-radius:.25rem;max-width:none;margin:.8rem 0}
.muted,figcaption,caption,small{color:var(--muted)}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(9.5rem,1fr));gap:.7rem;margin:1rem 0;padding:0}
.cards div{background:var(--card);border-radius:.4rem;padding:.6rem .8rem}
.cards dt{color:var(--muted);font-size:.85rem}
.cards dd{margin:0;font-size:1.12rem;font-weight:600;overflow-wrap:anywhere}
nav{display:flex;flex-wrap:wrap;gap:.3rem 1rem;padding-top:.4rem;padding-bottom:.9rem}
section{margin:0 0 1.2rem}
figure{margin:.8rem 0 1.2rem}
figcaption{font-size:.9rem;max-width:46rem;margin-top:.35rem}
.chart{width:100%;max-width:40rem;height:auto;display:block}
.grid{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(100%,17rem),1fr));gap:1rem}
.grid .chart{max-width:24rem}.grid figure{margin:0}
.tiles{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(47%,11rem),1fr));gap:.8rem}
.answers{display:contents}
.tiles figure{margin:0}.slice{width:100%;height:auto;display:block;background:#000;border-radius:.25rem}
.store{position:absolute}
.controls{margin:.6rem 0;display:flex;flex-wrap:wrap;gap:.3rem .6rem;align-items:center}
.slide input{flex:1 1 10rem;max-width:22rem;min-width:0;accent-color:var(--accent);min-height:1.8rem}
.slide output{font-variant-numeric:tabular-nums;font-size:.93rem}
#tip{position:fixed;z-index:9;pointer-events:none;max-width:min(20rem,calc(100vw - 1rem));background:var(--fg);
color:var(--bg);padding:.3rem .55rem;border-radius:.3rem;font-size:.88rem;line-height:1.35}
.point{cursor:pointer}.point:focus{outline:none}
.point:focus-visible>:is(circle,rect,path){stroke:var(--accent);stroke-width:3}
.same>circle{stroke:var(--fg);stroke-width:2.5;fill-opacity:1}
svg .frame{fill:none;stroke:var(--line)}
svg .dot{fill:var(--c);stroke:var(--c);fill-opacity:.8}svg .ring{fill-opacity:.12;stroke-width:1.8}
.scroll{overflow-x:auto;max-width:100%}
table{border-collapse:collapse;font-size:.93rem;font-variant-numeric:tabular-nums;min-width:100%}
caption{text-align:left;padding:.2rem 0 .5rem;font-size:.9rem}
caption span{display:block;max-width:min(60rem,calc(100vw - 2.6rem))}
th,td{padding:.34rem .7rem .34rem 0;border-bottom:1px solid var(--line);text-align:left;vertical-align:top;
white-space:nowrap}
thead th{white-space:normal;vertical-align:bottom}
th{font-weight:600}tbody th{font-weight:500}
.num{text-align:right}
.good{color:var(--good);font-weight:600}.bad{color:var(--bad);font-weight:600}
.warn{border-left:.3rem solid var(--bad);background:var(--card);padding:.6rem .9rem;border-radius:.25rem;max-width:none}
details{margin:.6rem 0}summary{cursor:pointer;font-weight:600}
pre{background:var(--card);padding:.8rem;border-radius:.3rem;overflow-x:auto;font-size:.82rem;line-height:1.4}
code{overflow-wrap:anywhere}
label{margin-right:1rem;font-size:.93rem}
select,input{font:inherit;color:inherit;background:var(--bg);border:1px solid var(--line);border-radius:.25rem}
:focus-visible{outline:.18rem solid var(--accent);outline-offset:.12rem}
.skip{position:absolute;left:-99rem}.skip:focus{left:1rem;top:.5rem;background:var(--bg);padding:.4rem}
.legend{display:flex;flex-wrap:wrap;gap:.2rem 1.1rem;list-style:none;padding:0;margin:.2rem 0;font-size:.93rem}
.legend svg{width:1.6rem;height:.9rem;vertical-align:-.1rem;margin-right:.35rem}
.legend button{font:inherit;color:inherit;background:none;border:0;padding:.15rem .1rem;text-align:left}
.legend button:enabled{cursor:pointer}.legend [aria-pressed=false]{text-decoration:line-through}
.legend [aria-pressed=false] svg{opacity:.25}
.legend [data-series=all]{text-decoration:none;color:var(--accent)}
svg text{fill:var(--fg);font:13px system-ui,-apple-system,"Segoe UI",Roboto,sans-serif}
svg .small{font-size:11.5px}svg .muted{fill:var(--muted)}
svg .axis{stroke:var(--muted);stroke-width:1}svg .gridline{stroke:var(--grid);stroke-width:1}
svg .trace{fill:none;stroke:var(--fg);stroke-width:1}
svg .reference{fill:none;stroke:#ffd400;stroke-width:1.3;vector-effect:non-scaling-stroke}
svg .prediction{fill:none;stroke:#00e5ff;stroke-width:1.3;stroke-dasharray:4 2;vector-effect:non-scaling-stroke}
.k1{stroke:#ffd400}.k2{stroke:#00e5ff}.k3{stroke:#ff7bf0}.k4{stroke:#7dff6a}.k5{stroke:#ff9a3c}.k0{stroke:#b3c2ff}
.swatch{background:#000;border-radius:.15rem}.swatch path{stroke-width:2.5}
body.no-reference svg .reference,body.no-prediction svg .prediction{display:none}
[data-by=label] .l0{--c:var(--s0)}[data-by=label] .l1{--c:var(--s1)}[data-by=label] .l2{--c:var(--s2)}
[data-by=label] .l3{--c:var(--s3)}[data-by=label] .l4{--c:var(--s4)}[data-by=label] .l5{--c:var(--s5)}
[data-by=label] .l6{--c:var(--s6)}
[data-by=site] .s0{--c:var(--s0)}[data-by=site] .s1{--c:var(--s1)}[data-by=site] .s2{--c:var(--s2)}
[data-by=site] .s3{--c:var(--s3)}[data-by=site] .s4{--c:var(--s4)}[data-by=site] .s5{--c:var(--s5)}
[data-by=site] .s6{--c:var(--s6)}
[data-by=patient] .dot{--c:hsl(var(--h) 65% 38%)}
@media screen and (prefers-color-scheme:dark){[data-by=patient] .dot{--c:hsl(var(--h) 65% 68%)}}
footer{padding-top:1rem;padding-bottom:2.5rem;font-size:.9rem;color:var(--muted);border-top:1px solid var(--line)}
[hidden]{display:none!important}
@media (max-width:40rem){svg.line text{font-size:20px}
body{font-size:15px}h1{font-size:1.4rem}.verdict{font-size:1.05rem}}
.strip{width:100%;min-width:44rem;height:auto;display:block}
.hits{display:flex;gap:.7rem;list-style:none;padding:.2rem;margin:.3rem 0 1.4rem;align-items:flex-start}
.hits li{flex:0 0 8.2rem;font-size:.8rem;line-height:1.35;overflow-wrap:anywhere}
.hits li:first-child{border-right:.2rem solid var(--accent);padding-right:.7rem;flex-basis:9.1rem}
.hits.answers{flex-wrap:wrap}.hits.answers li{flex-basis:10.5rem;border:0;padding:0}
.hits img,.small-trace{width:100%;height:6.4rem;object-fit:contain;background:#000;border-radius:.25rem;display:block}
.small-trace{background:var(--card)}.hits strong{display:block;margin-top:.25rem}.hits span{display:block}
@media print{.hits{flex-wrap:wrap}nav,.skip,.controls,.legend [data-series=all]{display:none}body{font-size:10.5pt}
figure,tr,.case,.cards{break-inside:avoid}h1,h2,h3,caption,summary,.legend{break-after:avoid}
#tip{display:none}a{color:inherit;text-decoration:none}.scroll{overflow:visible}
table{font-size:8pt}th,td:not(.num){white-space:normal}}
"""
