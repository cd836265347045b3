#include "cli/canvas_page.h"

namespace tutti::cli {
namespace {

constexpr const char* kHead = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Canvas trace</title>
<style>
:root{color-scheme:light dark;--line:#8884;--new:#2a7;--dim:#888}
body{font:15px/1.5 system-ui,sans-serif;margin:1rem auto;max-width:70rem;padding:0 1rem}
#bar{display:flex;gap:.6rem;align-items:center;flex-wrap:wrap;position:sticky;top:0;background:Canvas;padding:.4rem 0}
#at{flex:1;min-width:10rem}
#canvas{font-family:ui-monospace,monospace;display:flex;flex-wrap:wrap;gap:2px;margin:.8rem 0}
.c{border:1px solid var(--line);border-radius:3px;padding:0 .25em;min-width:1.1em;text-align:center;white-space:pre}
.open{color:var(--dim)}.new{outline:2px solid var(--new)}.gone{opacity:.25}
svg{width:100%;height:9rem}text{font-size:11px;fill:currentColor}
</style></head><body>
<h1>Canvas trace</h1>
<div id="bar"><label>choice <select id="choice"></select></label><button id="back" title="left arrow">&#9664;</button>
<button id="play">play</button><button id="next" title="right arrow">&#9654;</button>
<input id="at" type="range" min="0" value="0" aria-label="forward"><output id="what"></output></div>
<div id="canvas"></div>
<p>Each cell is a position of the answer: its colour the probability it was written with (red 0, green 1), outlined in the
forward that wrote it. Below: positions written per forward.</p>
<svg id="plot" role="img" aria-label="positions written per forward"></svg>
<script>
const all=[
)html";

constexpr const char* kTail = R"html(
];
const $=id=>document.getElementById(id);
const choices=[...new Set(all.map(s=>s.choice))];
$('choice').append(...choices.map(c=>new Option(c+1,c)));
let steps=[],timer=0;
function load(){steps=all.filter(s=>s.choice==$('choice').value);$('at').max=steps.length-1;$('at').value=0;plot();show()}
function show(){
  const at=+$('at').value,step=steps[at],cells=new Map();
  for(let i=0;i<=at;i++)for(const w of steps[i].written)cells.set(w.position,{...w,at:i});
  const most=Math.max(...steps.map(s=>s.answer)),out=[];
  for(let p=0;p<most;p++){
    const w=cells.get(p),e=document.createElement('span');e.className='c';
    if(w){e.textContent=w.text.replace(/\n/g,'⏎')||'∅';e.style.background=`hsl(${120*w.p} 60% 50% / .35)`;
      e.title=`position ${p}, id ${w.id}, p ${w.p.toFixed(4)}, forward ${steps[w.at].forward}`;if(w.at==at)e.classList.add('new')}
    else{e.textContent='·';e.classList.add('open')}
    if(p>=step.answer)e.classList.add('gone');
    out.push(e)}
  $('canvas').replaceChildren(...out);
  $('what').textContent=`forward ${step.forward} of ${steps.at(-1).forward}: ${step.kind}, ${step.rows} rows, ${step.written.length} written`;
  document.querySelectorAll('#plot rect').forEach((r,i)=>r.setAttribute('opacity',i<=at?1:.3))}
function plot(){
  const n=steps.length,top=Math.max(1,...steps.map(s=>s.written.length)),w=1000/n;
  $('plot').setAttribute('viewBox','0 0 1000 130');$('plot').setAttribute('preserveAspectRatio','none');
  $('plot').innerHTML=steps.map((s,i)=>{const h=110*s.written.length/top;
    return `<rect x="${i*w}" y="${120-h}" width="${Math.max(.5,w-1)}" height="${h}" fill="var(--new)"/>`}).join('')+
    `<text x="2" y="12">${top}</text>`}
function move(d){$('at').value=+$('at').value+d;show()}
$('at').oninput=show;$('choice').onchange=load;$('back').onclick=()=>move(-1);$('next').onclick=()=>move(1);
$('play').onclick=()=>{if(timer){clearInterval(timer);timer=0;$('play').textContent='play';return}
  if(+$('at').value==steps.length-1)$('at').value=0;
  $('play').textContent='stop';timer=setInterval(()=>{move(1);if(+$('at').value==steps.length-1)$('play').click()},120)};
onkeydown=e=>{if(e.target.tagName=='INPUT')return;if(e.key=='ArrowLeft')move(-1);if(e.key=='ArrowRight')move(1)};
if(all.length)load();
</script></body></html>
)html";

}  // namespace

std::string canvas_page(const std::string& steps) { return kHead + steps + kTail; }

}  // namespace tutti::cli
