"""The page's only script: choosers, sliders, tooltips. Without it everything is visible and nothing moves."""

from __future__ import annotations

__all__ = ["SCRIPT"]

# Tooltips: a point's title becomes its accessible name and a floating box, shown by pointer, tap and focus, hidden by
# Escape. Each chart is one stop of the tab key; arrow keys go from point to point. The point nearest to a tap counts,
# since points are smaller than fingers.
_POINTS = """
var tip=document.createElement('div');tip.id='tip';tip.hidden=true;tip.setAttribute('aria-hidden','true');
document.body.appendChild(tip);
var NEAR=24,shown=null;
all('.point>title').forEach(function(title){
  title.parentNode.setAttribute('aria-label',title.textContent);title.remove();
});
function pointsOf(chart){
  return all('.point',chart).filter(function(p){return !p.closest('[data-series][hidden]')});
}
function oneStop(chart){pointsOf(chart).forEach(function(p,i){p.setAttribute('tabindex',i?'-1':'0')})}
all('svg.chart').forEach(function(chart){
  oneStop(chart);
  chart.addEventListener('keydown',function(e){
    var points=pointsOf(chart),at=points.indexOf(document.activeElement),last=points.length-1;
    var to={ArrowRight:at+1,ArrowDown:at+1,ArrowLeft:at-1,ArrowUp:at-1,Home:0,End:last}[e.key];
    if(at<0||to===undefined)return;
    e.preventDefault();
    to=Math.max(0,Math.min(last,to));
    points[at].setAttribute('tabindex','-1');points[to].setAttribute('tabindex','0');points[to].focus();
  });
});
function light(patient,on){
  if(patient)all('.point[data-patient="'+CSS.escape(patient)+'"]').forEach(function(p){p.classList.toggle('same',on)});
}
function hide(){
  if(shown)light(shown.dataset.patient,false);
  shown=null;tip.hidden=true;
}
function show(p){
  if(shown===p)return;
  hide();shown=p;light(p.dataset.patient,true);
  tip.textContent=p.getAttribute('aria-label');tip.hidden=false;place(p);
}
function place(p){
  var shape=p.querySelector('circle')||p.lastElementChild;
  var r=(shape||p).getBoundingClientRect(),t=tip.getBoundingClientRect();
  var x=r.left+r.width/2-t.width/2,y=r.top-t.height-8;
  if(y<4)y=r.bottom+8;
  tip.style.left=Math.max(4,Math.min(document.documentElement.clientWidth-t.width-4,x))+'px';
  tip.style.top=y+'px';
}
function pointOf(e){return e.target.closest?e.target.closest('.point'):null}
function nearest(e){
  var chart=e.target.closest?e.target.closest('svg.chart'):null,best=null,least=NEAR*NEAR;
  if(!chart)return null;
  pointsOf(chart).forEach(function(p){
    var shape=p.querySelector('circle')||p.lastElementChild;
    if(!shape)return;
    var r=shape.getBoundingClientRect();
    var dx=r.left+r.width/2-e.clientX,dy=r.top+r.height/2-e.clientY,d=dx*dx+dy*dy;
    if(d<least){least=d;best=p}
  });
  return best;
}
document.addEventListener('pointerover',function(e){
  if(e.pointerType==='touch')return;
  var p=pointOf(e);
  if(p)show(p);else if(shown&&shown!==document.activeElement)hide();
});
document.addEventListener('click',function(e){var p=pointOf(e)||nearest(e);if(p)show(p);else hide()});
document.addEventListener('focusin',function(e){
  var p=pointOf(e);
  if(p&&p.matches(':focus-visible'))show(p);else if(!p)hide();
});
document.addEventListener('focusout',hide);
document.addEventListener('keydown',function(e){if(e.key==='Escape')hide()});
document.addEventListener('scroll',function(){if(shown)place(shown)},{passive:true,capture:true});
"""

# A name of the legend hides its line in all charts of the section; the last one all of them, or shows them again.
_LEGEND = """
all('.legend').forEach(function(legend){
  var names=all('button[data-series]',legend),whole=names.filter(function(b){return b.dataset.series==='all'})[0];
  var own=names.filter(function(b){return b!==whole}),place=legend.closest('section');
  function pressed(b){return b.getAttribute('aria-pressed')==='true'}
  function set(b,on){
    b.setAttribute('aria-pressed',on);
    all('g[data-series="'+b.dataset.series+'"]',place).forEach(function(g){g.toggleAttribute('hidden',!on)});
  }
  names.forEach(function(b){
    b.disabled=false;
    b.addEventListener('click',function(){
      if(b===whole){var on=!own.some(pressed);own.forEach(function(o){set(o,on)})}else set(b,!pressed(b));
      if(whole)whole.setAttribute('aria-pressed',own.some(pressed));
      all('svg.chart',place).forEach(oneStop);
    });
  });
});
"""

# All slices of a case stand under each other in one picture; a slider moves the window through which it is seen.
_CONTROLS = """
all('select[data-choose]').forEach(function(choice){
  function choose(){
    all('[data-group="'+choice.dataset.choose+'"]').forEach(function(item){
      item.hidden=item.dataset.value!==choice.value});
    all('[data-colours="'+choice.dataset.choose+'"]').forEach(function(item){item.dataset.by=choice.value});
  }
  choice.addEventListener('change',choose);choose();
});
all('input[data-toggle]').forEach(function(box){
  function toggle(){document.body.classList.toggle('no-'+box.dataset.toggle,!box.checked)}
  box.addEventListener('change',toggle);toggle();
});
all('input[data-slider]').forEach(function(range){
  var box=range.closest('.case'),says=range.parentNode.querySelector('output');
  function go(){
    var at=range.value-1;
    all('svg.slice',box).forEach(function(picture){
      var view=picture.getAttribute('viewBox').split(' ');
      view[1]=at*box.dataset.pitch;picture.setAttribute('viewBox',view.join(' '))});
    all('[data-values]',box).forEach(function(text){text.textContent=text.dataset.values.split('|')[at]});
    range.setAttribute('aria-valuetext',says.textContent);
  }
  range.addEventListener('input',go);go();
});
all('.controls').forEach(function(bar){bar.hidden=false});
"""

# What is folded on the screen is unfolded on paper, but for long listings.
_PAPER = """
var unfolded=[];
window.addEventListener('beforeprint',function(){
  unfolded=all('details:not([open]):not(.listing)');unfolded.forEach(function(d){d.open=true})});
window.addEventListener('afterprint',function(){unfolded.forEach(function(d){d.open=false})});
"""

SCRIPT = (
    "(function(){'use strict';\n"
    "function all(what,where){return Array.from((where||document).querySelectorAll(what))}"
    f"{_CONTROLS}{_POINTS}{_LEGEND}{_PAPER}}})();\n"
)
