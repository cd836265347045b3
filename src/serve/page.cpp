#include "serve/page.h"

#include <string_view>

namespace tutti::serve {
namespace {

constexpr std::string_view kNonce = "NONCE";

constexpr const char* kHead = R"html(<!doctype html>
<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width,initial-scale=1">
<title>Tutti</title><link rel="icon" href="data:,">
<style nonce="NONCE">
:root{color-scheme:light dark;--line:#8884;--soft:#8882;--dim:light-dark(#555,#aaa);--go:light-dark(#0a5a9c,#6db8f2);
  --bad:light-dark(#a11,#f88)}
*{box-sizing:border-box}
body{font:16px/1.5 system-ui,sans-serif;margin:0;height:100dvh;display:grid;background:Canvas;color:CanvasText;
  grid-template:auto minmax(0,1fr)/minmax(0,1fr) minmax(0,1fr)}
header{grid-column:1/-1;display:flex;flex-wrap:wrap;gap:.2rem 1.2rem;align-items:baseline;padding:.4rem .8rem;
  border-bottom:1px solid var(--line)}
h1{font-size:1.1rem;margin:0}h2{font-size:.85rem;margin:0;color:var(--dim);font-weight:600}
.figures{display:flex;flex-wrap:wrap;gap:0 1rem;margin:0 0 0 auto;font-variant-numeric:tabular-nums;font-size:.85rem}
.figures div{display:flex;gap:.35rem}.figures dt{color:var(--dim)}.figures dd{margin:0;min-width:2.5ch;font-weight:600}
#score,#talk{display:flex;flex-direction:column;min-height:0;padding:.6rem .8rem;gap:.5rem}
#score{border-right:1px solid var(--line)}
#lanes{flex:1;min-height:4rem;width:100%}
#log{flex:1;overflow:auto;min-height:4rem;display:flex;flex-direction:column;gap:.6rem}
.turn{white-space:pre-wrap;overflow-wrap:anywhere;padding:.4rem .7rem;border-radius:.6rem;max-width:92%}
.user{align-self:flex-end;background:var(--soft)}
.answers{display:grid;grid-template-columns:repeat(auto-fit,minmax(min(15rem,100%),1fr));gap:.5rem}
.answers .turn{border:1px solid var(--line);max-width:none}
.note{font-size:.8rem;color:var(--dim);margin:0}.bad{color:var(--bad)}
form{display:grid;gap:.4rem}.row{display:flex;gap:.4rem}
textarea,input,select,button{font:inherit;color:inherit;background:Canvas;border:1px solid var(--line);
  border-radius:.4rem;padding:.35rem .5rem;min-width:0}
textarea{width:100%;resize:vertical}.row textarea{flex:1}
button{cursor:pointer}button:disabled{opacity:.5;cursor:default}
#send{background:var(--go);color:Canvas;border-color:var(--go)}
:focus-visible{outline:2px solid var(--go);outline-offset:1px}
.fields{display:grid;grid-template-columns:repeat(auto-fill,minmax(min(11rem,45%),1fr));gap:.4rem;margin-top:.4rem}
.fields label{display:grid;font-size:.8rem;color:var(--dim)}.fields [hidden]{display:none}.fields .wide{grid-column:1/-1}
details{border:1px solid var(--line);border-radius:.4rem;padding:.3rem .5rem;max-height:45dvh;overflow:auto}
summary{cursor:pointer;font-size:.85rem}
@media(max-width:46rem){body{grid-template:auto 9.5rem minmax(0,1fr)/minmax(0,1fr)}
  #score{border-right:0;border-bottom:1px solid var(--line)}.figures{margin-left:0}h2,#legend{display:none}
  .figures .less{display:none}}
</style></head><body>
<header><h1>Tutti</h1><span id="model" class="note"></span><button id="theme" type="button" title="light or dark">&#9680;</button>
<dl class="figures" aria-label="what the server does now">
<div><dt>tokens/s</dt><dd id="speed">0</dd></div><div><dt>rows per forward</dt><dd id="rows">0</dd></div>
<div><dt>in flight</dt><dd id="running">0</dd></div><div class="less"><dt>waiting</dt><dd id="waiting">0</dd></div>
<div class="less"><dt>forwards/s</dt><dd id="forwards">0</dd></div><div class="less"><dt>pages used</dt><dd id="pages">–</dd></div>
</dl></header>
<section id="score"><h2>Score</h2><canvas id="lanes" role="img" aria-label="nothing runs"></canvas>
<p class="note" id="legend">A line for each text that is being written, a column for each forward: the fuller, the more
tokens it brought; pale: rows that were tried. Masked models: a cell for each position, bright when it was just written. Below: rows of each forward.</p>
</section>
<main id="talk"><div id="log" role="log" aria-live="polite" aria-label="conversation" tabindex="0"></div>
<form id="form"><details id="settings"><summary>Method and sampling <span id="chosen" class="note"></span></summary>
<div class="fields">
<label id="whose">model<select id="which"></select></label>
<label>method<select id="method"></select></label>
<label>as<select id="kind"><option value="chat">a chat</option><option value="text">text to go on with</option></select></label>
</div><p class="note" id="about"></p>
<div class="fields" id="options"></div>
<div class="fields">
<label>samples<input id="n" type="number" min="1" max="64" value="1"></label>
<label>tokens at most<input id="max_tokens" type="number" min="1" value="256"></label>
<label>temperature<input id="temperature" type="number" min="0" max="2" step="0.1" value="0.8"></label>
<label>top p<input id="top_p" type="number" min="0" max="1" step="0.05" value="0.95"></label>
<label>seed<input id="seed" type="number" min="0" placeholder="any"></label>
<label>API key<input id="key" type="password" autocomplete="off" placeholder="none"></label>
<label class="wide">system<textarea id="system" rows="1"></textarea></label>
</div></details>
<div class="row"><textarea id="say" rows="2" aria-label="message" placeholder="Message" title="Enter sends, Shift+Enter begins a line, Esc stops"></textarea>
<button id="send">Send</button><button id="stop" type="button" disabled>Stop</button><button id="clear" type="button">New</button></div>
</form></main>
)html";

constexpr const char* kCall = R"html(<script nonce="NONCE">
'use strict';
const $=id=>document.getElementById(id);
const make=(tag,name,text)=>{const e=document.createElement(tag);if(name)e.className=name;if(text)e.textContent=text;return e};
function headers(){
  const h={'Content-Type':'application/json'},key=$('key').value;
  if(key)h.Authorization='Bearer '+key;
  return h}
// The data of server-sent events, one by one.
async function*events(response){
  const reader=response.body.pipeThrough(new TextDecoderStream()).getReader();
  let rest='';
  for(;;){
    const{done,value}=await reader.read();
    if(done)return;
    const parts=(rest+value).split('\n\n');
    rest=parts.pop();
    for(const part of parts)if(part.startsWith('data: '))yield part.slice(6)}}
async function refused(response){
  let text=response.status+' '+response.statusText;
  try{text=(await response.json()).error.message}catch{}
  if(response.status==401){$('settings').open=true;$('key').focus();text='The server wants an API key: settings, last field.'}
  return new Error(text)}

// Methods and their options
let table={data:[],models:[]};
// Of those that write text, the chosen one.
const writers=()=>table.models.filter(m=>m.methods.length);
const model=()=>writers().find(m=>m.id==$('which').value)??writers()[0];
async function load_methods(){
  const response=await fetch('v1/methods',{headers:headers()});
  if(!response.ok)throw await refused(response);
  table=await response.json();
  const chosen=$('which').value;
  $('which').replaceChildren(...writers().map(m=>new Option(m.id,m.id)));
  if(writers().some(m=>m.id==chosen))$('which').value=chosen;
  $('whose').hidden=writers().length<2;
  if(!model())throw new Error('The models here read texts and write none: ask for /v1/embeddings or /v1/rerank.');
  show_model()}
function show_model(){
  $('model').textContent=model().id;
  $('max_tokens').max=model().max_model_len;
  $('kind').value=model().chat?'chat':'text';
  const names=['auto',...model().methods];
  $('method').replaceChildren(...names.map(name=>new Option(name=='auto'?'auto ('+model().auto+')':name,name)));
  show_method()}
$('which').onchange=()=>{show_model();forget_score()};
const method=()=>table.data.find(m=>m.name==($('method').value=='auto'?model().auto:$('method').value));
function show_method(){
  const m=method();
  $('about').textContent=m.source+': '+m.guarantee;
  $('chosen').textContent=$('method').value;
  $('options').replaceChildren(...m.options.map(o=>{
    const label=make('label','',o.name),input=make('input');
    input.name=o.name;input.placeholder=o.default;input.title=o.help;
    label.title=o.help;label.append(input);return label}))}
$('method').onchange=show_method;
$('key').onchange=()=>{load_methods().catch(complain)};

// The conversation
let messages=[],running=null;
const log=$('log');
function add(element){
  const end=log.scrollHeight-log.scrollTop-log.clientHeight<60;
  log.append(element);if(end)log.scrollTop=log.scrollHeight}
function complain(error){add(make('p','note bad',error.message))}
function body_of(text){
  const number=id=>$(id).value===''?undefined:Number($(id).value);
  const options={};
  for(const input of $('options').querySelectorAll('input'))if(input.value!=='')options[input.name]=input.value;
  const body={model:model()?.id,stream:true,stream_options:{include_usage:true},n:number('n'),max_tokens:number('max_tokens'),
    temperature:number('temperature'),top_p:number('top_p'),seed:number('seed'),method:$('method').value||'auto'};
  if(Object.keys(options).length)body.method_options=options;
  if($('kind').value=='text')body.prompt=text;
  else body.messages=[...($('system').value?[{role:'system',content:$('system').value}]:[]),...messages];
  return body}
async function ask(text){
  const chat=$('kind').value=='chat';
  const talk=messages;  // "New" may begin another meanwhile
  if(chat)talk.push({role:'user',content:text});
  const body=body_of(text),box=make('div','answers'),said=[],thought=[];
  add(make('div','turn user',text));
  for(let i=0;i<(body.n||1);++i){const e=make('div','turn');const t=make('div','note');
    t.append('');e.append(t,'');box.append(e);thought.push(t.firstChild);said.push(e.lastChild)}
  add(box);
  running=new AbortController();$('send').disabled=true;$('stop').disabled=false;
  const start=performance.now();let first=0,usage=null,failure=null;
  try{
    const response=await fetch(chat?'v1/chat/completions':'v1/completions',
      {method:'POST',headers:headers(),body:JSON.stringify(body),signal:running.signal});
    if(!response.ok)throw await refused(response);
    for await(const data of events(response)){
      if(data=='[DONE]')break;
      const event=JSON.parse(data);
      if(event.error)throw new Error(event.error.message);
      usage=event.usage||usage;
      for(const choice of event.choices){
        const thinks=chat&&choice.delta?.reasoning_content;
        const piece=thinks||(chat?choice.delta?.content:choice.text);
        if(!piece)continue;
        first=first||performance.now();
        const end=log.scrollHeight-log.scrollTop-log.clientHeight<60;
        (thinks?thought:said)[choice.index].appendData(piece);
        if(end)log.scrollTop=log.scrollHeight}}
  }catch(error){failure=error}
  const answer=said[0].data;
  if(chat){if(answer||thought[0].data)talk.push({role:'assistant',content:answer});else talk.pop()}
  if(failure&&failure.name!='AbortError')complain(failure);
  const note=[];
  if(failure?.name=='AbortError')note.push('stopped');
  if(usage){
    const seconds=(performance.now()-start)/1000,t=usage.tutti;
    note.push(usage.completion_tokens+' tokens in '+seconds.toFixed(2)+' s',(usage.completion_tokens/seconds).toFixed(0)+' a second');
    if(first)note.push('first after '+(first-start).toFixed(0)+' ms');
    if(t)note.push(t.method+': '+t.forwards+' forwards, '+t.tokens_per_forward.toFixed(2)+' tokens each')}
  if(note.length)add(make('p','note',note.join(' · ')));
  running=null;$('send').disabled=false;$('stop').disabled=true}
$('form').onsubmit=event=>{
  event.preventDefault();
  const text=$('say').value;
  if(running||!text.trim())return;
  $('say').value='';
  ask(text).catch(complain)};
$('say').onkeydown=event=>{
  if(event.key=='Enter'&&!event.shiftKey&&!event.isComposing){event.preventDefault();$('form').requestSubmit()}};
$('stop').onclick=()=>running?.abort();
$('clear').onclick=()=>{running?.abort();messages=[];log.replaceChildren();$('say').focus()};
$('theme').onclick=()=>{
  const now=document.documentElement.style.colorScheme||(matchMedia('(prefers-color-scheme: dark)').matches?'dark':'light');
  document.documentElement.style.colorScheme=now=='dark'?'light':'dark';draw()};
onkeydown=event=>{
  if(event.key=='Escape')running?.abort();
  if(event.key=='/'&&!/INPUT|TEXTAREA|SELECT/.test(event.target.tagName)){event.preventDefault();$('say').focus()}};
)html";

constexpr const char* kScore = R"html(
// The score
const kColumns=600,kLinger=40;  // ticks that are kept; ticks that a lane stays after its end
let ticks=[],recent=[],lanes=new Map(),drawn=true;
function lane(request,choice){
  const id=request+'.'+choice;
  if(!lanes.has(id))lanes.set(id,{request,choice,ended:-1,cells:null,at:new Map()});
  return lanes.get(id)}
function forget_score(){ticks=[];recent=[];lanes.clear();draw()}
function take(event){
  if(event.model!=model()?.id)return;  // each model has its own ticks
  const now=performance.now();
  if(event.lost)lanes.clear();  // whose end may be among them
  for(const t of event.ticks){
    const column={rows:t.rows,ms:t.ms,parts:new Map(t.parts),tokens:0};
    ticks.push(column);
    column.number=(ticks.at(-2)?.number??0)+1;
    for(const[request,choice,count]of t.lanes){
      column.tokens+=count;
      const l=lane(request,choice);if(!l.cells)l.at.set(column.number,count)}
    for(const[request,choice,length,positions]of t.canvases){
      const l=lane(request,choice);
      l.cells=l.cells||[];l.length=length;
      for(const p of positions)l.cells[p]=column.number}
    for(const request of t.ended)for(const l of lanes.values())if(l.request==request)l.ended=column.number;
    recent.push({now,rows:t.rows,tokens:column.tokens})}
  if(ticks.length>kColumns)ticks=ticks.slice(-kColumns);
  const last=ticks.at(-1)?.number??0;
  for(const[id,l]of lanes)if(l.ended>=0&&last-l.ended>kLinger)lanes.delete(id);
  recent=recent.filter(t=>now-t.now<2000);
  const sum=key=>recent.reduce((s,t)=>s+t[key],0);
  $('speed').textContent=(sum('tokens')/2).toFixed(0);
  $('rows').textContent=recent.length?(sum('rows')/recent.length).toFixed(1):'0';
  $('forwards').textContent=(recent.length/2).toFixed(0);
  $('running').textContent=event.running;$('waiting').textContent=event.waiting;
  if(event.pages)$('pages').textContent=(100*(1-event.free_pages/event.pages)).toFixed(0)+' %';
  if(!drawn)return;
  drawn=false;requestAnimationFrame(draw)}
function draw(){
  drawn=true;
  const canvas=$('lanes'),scale=devicePixelRatio||1,w=canvas.clientWidth,h=canvas.clientHeight;
  canvas.width=w*scale;canvas.height=h*scale;
  const g=canvas.getContext('2d');g.scale(scale,scale);
  const style=getComputedStyle(canvas),dark=style.color.match(/\d+/)>128;
  const colour=(request,strong)=>`hsl(${request*137.5%360} 65% ${dark?65:40}% / ${strong})`;
  const foot=Math.min(48,h/3),shown=[...lanes.values()],last=ticks.at(-1)?.number??0;
  const step=Math.max(3,Math.min(8,w/200)),columns=Math.floor(w/step);
  const height=Math.max(4,Math.min(36,(h-foot-6)/Math.max(1,shown.length)));
  const fit=Math.floor((h-foot-6)/height);
  const column=number=>w-(last-number+1)*step;
  shown.slice(-fit).forEach((l,i)=>{
    const top=i*height,bar=height-2,alpha=l.ended<0?1:.45;
    g.fillStyle=colour(l.request,.10);g.fillRect(0,top,w,bar);
    if(l.cells){
      const cell=w/Math.max(1,l.length);
      for(let p=0;p<l.length;++p){
        if(l.cells[p]===undefined)continue;
        const age=Math.min(1,(last-l.cells[p])/30);
        g.fillStyle=colour(l.request,alpha*(1-.6*age));g.fillRect(p*cell,top,Math.max(1,cell-1),bar)}
      return}
    for(const t of ticks.slice(-columns)){
      const tried=t.parts.get(l.request)||0,count=l.at.get(t.number)||0,x=column(t.number);
      if(tried>count){
        const y=bar*Math.min(1,Math.log2(1+tried)/5);
        g.fillStyle=colour(l.request,.22*alpha);g.fillRect(x,top+bar-y,step-1,y)}
      if(!count)continue;
      const y=bar*Math.min(1,.35+.65*(count-1)/7);
      g.fillStyle=colour(l.request,alpha);g.fillRect(x,top+bar-y,step-1,y)}
    for(const number of l.at.keys())if(number<last-kColumns)l.at.delete(number)});
  const most=Math.max(8,...ticks.slice(-columns).map(t=>t.rows));
  g.fillStyle=style.color;g.globalAlpha=.55;
  for(const t of ticks.slice(-columns)){const y=(foot-14)*Math.sqrt(t.rows/most);g.fillRect(column(t.number),h-y,step-1,y)}
  g.globalAlpha=.8;g.font='11px system-ui,sans-serif';
  g.fillText('rows per forward, at most '+most+(shown.length>fit?'; '+(shown.length-fit)+' lanes more':''),2,h-foot+8);
  canvas.setAttribute('aria-label',shown.length+' texts are being written or just were; '+$('speed').textContent+' tokens a second, '+
    $('rows').textContent+' rows per forward')}
async function watch(){
  for(;;){
    try{
      const response=await fetch('tutti/events',{headers:headers()});
      if(response.status==404){$('score').remove();return}
      if(!response.ok)throw new Error(response.statusText);
      lanes.clear();
      for await(const data of events(response))take(JSON.parse(data))
    }catch{}
    await new Promise(done=>setTimeout(done,2000))}}
onresize=draw;
load_methods().catch(complain);
watch();
$('say').focus();
</script></body></html>
)html";

}  // namespace

std::string page_html(const std::string& nonce) {
  std::string page = std::string(kHead) + kCall + kScore;
  for (size_t at = page.find(kNonce); at != std::string::npos; at = page.find(kNonce, at))
    page.replace(at, kNonce.size(), nonce);
  return page;
}

}  // namespace tutti::serve
