"""Writes src/text/jinja_cases.json: small templates with what transformers' jinja2 environment makes of them.

Run: .venv/bin/python tests/conformance/make_jinja_cases.py
"""
import json
import pathlib

from transformers.utils.chat_template_utils import _compile_jinja_template

CONTEXT = {
    "n": 7, "z": 0, "neg": -3, "f": 2.5, "s": "Hello World", "u": "ÄÖü ß 日本語 🎉", "e": "", "t": True, "nope": False,
    "nul": None, "l": [3, 1, 2], "d": {"b": 1, "a": "x", "C": None}, "words": ["b", "A", "c", "a"],
    "people": [{"name": "Ann", "age": 30, "x": {"y": 1}}, {"name": "bob", "age": 25, "x": {"y": 2}},
               {"name": "Cid", "age": 30, "x": {"y": 3}}],
    "nested": {"k": [1, {"z": [True, None, 1.5, "q\"'\n"]}]}, "html": "<a href='x'>&\"</a>", "pad": "  x y  ",
}

EXPRESSIONS = """
n + 1; n - 10; n * f; n / 2; n // 2; neg // 2; neg % 2; n % -4; 2 ** 10; 2 ** -1; 7.5 // 2; -7.5 % 2; -n; +n; - n|abs
1 + 2 * 3; (1 + 2) * 3; 2 ** 3 ** 2; -2 ** 2; 1 ~ 2 + 3; "a" ~ 1 ~ none ~ true ~ 1.0; 10 / 5; 1e16; 1e15; 1e-5; 0.0001
0.1 + 0.2; 1e300 * 1e300; 100000000000000000.0; 1.0; 123456789.123; 5e-324; 1_000; 0x1F; 0b101; 0o17; true + 1; 3 * "ab"; [1] * 2; [1] + [2]
(1, 2) + (3,); "a" "b"; 'it''s'; "\\n\\t\\x41\\u00e9"; 'q"q' | tojson; [1, 2.0, "a", none, true, ("x",), {}] ; {"a": {"b": []}, 1: 2, none: 3}
"it's"; ["it's", 'q"', '\\\\', "\\n\\x07é\\u200b"]; nested; nested | tojson; nested | tojson(indent=2); nested | tojson(separators=(",", ":")); d | tojson(sort_keys=true); d|tojson(indent=0)
u | tojson(ensure_ascii=true); u | tojson; "\\x7f\\x1f" | tojson; 1.0 | tojson; 1e100 | tojson; [] | tojson(indent=2); {} | tojson(indent=1); {1: 2, true: 3, none: 4, 1.5: 5} | tojson; (1, 2) | tojson
missing | tojson; range(3) | tojson; missing; missing.x; missing["x"]; d.missing; d.missing.x; l[9]; l[9].x; nul.x; nul.x is defined; s.x is defined; missing + 1; missing ~ "a"; missing == missing
missing is sequence; missing is iterable; missing | length; missing | list; missing | default("dd"); e | default("dd"); e | default("dd", true); nul | d("k", true); missing in l; "a" in missing; missing < 1
1 < 2; 1 < 2 < 3; 1 < 3 < 2; 1 == 1.0; true == 1; "a" < "b"; [1, 2] < [1, 3]; (1,) == [1]; {"a": 1} == {"a": 1.0}; 1 < "a"; none == false; none < 1; "A" == "a"
2 in l; 9 not in l; "a" in d; 1 in d; "ell" in s; 1 in s; "x" in nul; (1, 2) in [(1, 2)]; [] in d; not t; not not t; t and n; z or "else"; e or nul or "x"; z and missing.x
"yes" if t else "no"; "yes" if z; ("yes" if z) is defined; 1 if z else 2 if nope else 3; l[0]; l[-1]; l[1:]; l[::-1]; l[:-1]; l[-2:]; l[5:]; l[::2]; s[0]; s[-1]; s[1:4]; s[::-1]; u[0]; u[-1]; u[3:]; u[::-1]; u | length
s[::0]; d[1:]; n[1:]; nul[1:]; l["a"]; s["upper"](); d["items"] is callable; d.items() | list; d.items(); d.keys(); d.values(); d.keys() | list; d.get("a"); d.get("q"); d.get("q", 5); d | items | list; d | length
d.a; d["a"]; d.get; d.pop is defined; l.append(1); l.append is defined; d.update({}); s.__class__; s.__class__ is defined; d._x is defined; {"_x": 1}._x; {"items": 1}.items; {"items": 1}["items"]
s.upper(); s.lower(); s.title(); s.capitalize(); s.swapcase(); u.upper(); u.lower(); u.title(); "ΑΣ ΑΣΑ".lower(); "ǆ".upper(); pad.strip(); pad.lstrip(); pad.rstrip(); "xxaxx".strip("x"); "xyaxy".lstrip("yx"); "\\u3000a\\u00a0".strip()
"a,b,c".split(","); "a,b,c".split(",", 1); "a,b,c".rsplit(",", 1); " a  b c ".split(); " a  b c ".split(none, 1); " a  b c ".rsplit(none, 1); "".split(); "".split(","); "a".split(""); "a\\nb\\r\\nc\\n".splitlines(); "a\\nb".splitlines(true)
s.startswith("He"); s.startswith(("x", "H")); s.endswith("ld"); s.endswith("l", 0, -1); s.startswith(1); s.replace("l", "L"); s.replace("l", "L", 1); "abc".replace("", "-"); "abc".replace("", "-", 2); s.find("o"); s.rfind("o"); s.find("q"); s.index("q"); s.find("o", 5); s.count("l"); s.count(""); u.find("日"); "aaa".count("aa")
", ".join(words); "-".join("abc"); "-".join([1]); "-".join({"a": 1, "b": 2}); "a-b-c".partition("-"); "a-b-c".rpartition("-"); "abc".partition("-"); "abc".removeprefix("a"); "abc".removesuffix("c"); "7".zfill(3); "-7".zfill(4); "ab".center(7, "*"); "ab".center(5); "ab".ljust(4) ~ "|"; "ab".rjust(4); "a\\tb".expandtabs(4)
"abc".isalpha(); "12".isdigit(); "a1".isalnum(); "".isalpha(); "Ab".isupper(); "AB1".isupper(); "ab".islower(); " ".isspace(); "Ab Cd".istitle(); "é".isascii(); "日".isalpha()
"{} {}".format(1, "a"); "{0}{1}{0}".format("x", "y"); "{a:>5}|{b:<4}|{c:^5}".format(a=1, b="x", c="y"); "{:.2f} {:05d} {:,} {:x} {:e} {:%}".format(3.14159, 42, 1234567, 255, 12345.678, 0.5); "{!r}".format("a"); "{{}}".format(); "{} {}".format(1); "{x.y[0]}".format(x={"y": [5]}); "{".format(1)
"%s and %d" % ("a", 5); "%s" % 5; "%5.2f|%-5s|%05d|%x|%%" % (3.14159, "ab", 42, 255); "%s %s" % ("a",); "%d" % "a"; "%(k)s" % {"k": 1}; "%s" % [1]; "%r" % "a"; "%s" | format("x"); "%d-%d" | format(1, 2); "a" % 5
l | sort; l | sort(reverse=true); words | sort; words | sort(case_sensitive=true); people | sort(attribute="age") | map(attribute="name") | list; people | sort(attribute="age,name", reverse=true) | map(attribute="name") | join; [1, "a"] | sort; l | first; l | last; [] | first; [] | last is defined; s | first; s | last
l | min; l | max; [] | max; words | min; words | max; people | max(attribute="age"); l | sum; people | sum(attribute="age"); l | sum(start=10); l | join(","); l | join; people | join(", ", attribute="name"); s | join("-")
l | reverse | list; s | reverse; s | list; d | list; l | length; l | count; 5 | length; l | map("string") | list; words | map("upper") | join(" "); people | map(attribute="x.y") | list; people | map(attribute="q", default=0) | list; l | map("nofilter") | list; l | map
l | select("odd") | list; l | reject("odd") | list; [0, 1, "", "a"] | select | list; l | select("greaterthan", 1) | list; people | selectattr("age", "equalto", 30) | map(attribute="name") | list; people | rejectattr("age", "eq", 30) | list | length; people | selectattr("name") | list | length; people | selectattr("x.y", ">", 1) | list | length; l | select("in", [1, 2]) | list; people|selectattr("name", "nosuch")|list
(l | select("odd")) | length; (l | select) is iterable; (l | select) is sequence; nul | select | list; words | unique | list; ["a", "A", "b", "a"] | unique(case_sensitive=true) | list; [1, 1.0, true] | unique | list; d | dictsort; d | dictsort(reverse=true); {"b": 1, "a": 2} | dictsort(by="value"); [1, 2, 3, 4, 5] | batch(2) | list; [1, 2, 3] | batch(2, 0) | list; [1, 2, 3, 4, 5] | slice(2) | list
people | groupby("age") | map("first") | list; s | upper; s | lower; s | title; "foo-bar (baz) it's" | title; s | capitalize; s | replace("l", "L"); s | replace("l", "L", 1); n | replace("7", "8"); pad | trim; "xxaxx" | trim("x"); s | wordcount; "a\\nb\\n\\nc" | indent; "a\\nb\\n\\nc" | indent(2, true); "a\\nb\\n\\nc" | indent(2, blank=true); "a\\nb" | indent("> "); "" | indent; s | center(15)
s | truncate(5); s | truncate(8, leeway=0); s | truncate(8, true, leeway=0); "42" | int; "4.9" | int; "x" | int; "x" | int(5); "ff" | int(base=16); "0x1A" | int(base=16); 3.9 | int; -3.9 | int; none | int; t | int; " 12 " | int; "1_000" | int; "2.5" | float; "x" | float; "inf" | float; n | float; "1e3" | float; "nan" | float
2.567 | round(2); 2.5 | round; 3.5 | round; 2.4 | round(0, "ceil"); 2.46 | round(1, "floor"); 7 | round; 1234 | round(-2); 2.675 | round(2); neg | abs; -2.5 | abs; s | abs; n | string; [1] | string; html | escape; html | e | length; html | safe; "<" ~ (html | safe); "<" + (html | safe); (html | safe) + "<"; ("<" | safe).join(["<", "a"]); "a b&c/d" | urlencode; (html|escape) is escaped
n is odd; n is even; n is divisibleby 7; n is divisibleby(2); n is number; f is number; t is number; n is integer; t is integer; f is float; t is boolean; nul is none; nul is not none; s is string; l is string; d is mapping; l is mapping; l is sequence; d is sequence; s is sequence; d.items() is sequence; l is iterable; n is iterable; s is iterable; nul is defined; missing is defined; missing is undefined; t is true; nope is false; n is true; 1 is true
n is eq 7; n is equalto(7); n is ne 8; n is gt 5; n is ge 7; n is lt 5; n is le 7; n is in l; 3 is in(l); "abc" is lower; "ABC" is upper; raise_exception is callable; s is callable; n is sameas 7; "upper" is filter; "odd" is test; s is odd; n is nosuch; n | nosuch; "x" if n is odd else "y"; not n is odd; n is not odd
range(3) | list; range(1, 10, 3) | list; range(5, 0, -2) | list; range(3); range(0); range(1, 2, 3); range(3)[1]; range(3) | length; range(200000); range("a"); range(1, 2, 0); dict(a=1, b=2); dict({"x": 1}, y=2); dict([("a", 1)]); namespace(a=1); namespace(a=1).a; namespace().q is defined; namespace(_a=1); raise_exception("bad"); raise_exception(); joiner is defined; strftime_now is defined; joiner()(); 5(); s(); missing(); missing.x(); d.q()
[1, [2, [3]]] | string | length; (1,); (); ((1, 2), 3); [1, 2,]; {"a": 1,}; {"a": 1}["a"]; {"a": 1}.a; [[1, 2], [3]][0][1]; people[0].x.y; people[0]["x"]["y"]; people.0.name; l.1; d.items is callable; s.split().0; "a" "b" ~ "c"; {"x": 1, "x": 2}; {[]: 1}; {(1, 2): 3}; l.index(2); l.count(1); l.index(9); l.copy(); f.is_integer(); "a".join is callable
"%.3f" | format(2.0); 9007199254740993; 1 / 3; 2 / 3 * 3; 1e22; 1e21; 123e-7; -0.0; 0.0 == -0.0; 3.0 | int; 10 // 3.0; 10 % 3.5; 5 // 0; 5 % 0; 5 / 0; 0 ** 0; true and false; true or false; True; None; False; none; "é" > "z"; "Z" < "a"; "" < "a"; [] == []; {} == {}; () == ()
"""

TEMPLATES = r"""
{% for x in l %}{{ x }}{% if not loop.last %},{% endif %}{% endfor %}
{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }} {% endfor %}
{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }};{% endfor %}{{ loop is defined }}
{% for x in [] %}a{% else %}none{% endfor %}|{% for x in [1] if x > 1 %}a{% else %}filtered{% endfor %}
{% for x in l if x is odd %}{{ loop.index }}:{{ x }}/{{ loop.length }} {% endfor %}
{% for k, v in d.items() %}{{ k }}={{ v }};{% endfor %}{% for k in d %}{{ k }}{% endfor %}
{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}
{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}
{% for a, b in ["xy", "zw"] %}{{ b }}{{ a }}{% endfor %}
{% for c in "héy" %}[{{ c }}]{% endfor %}
{% for x in 5 %}{% endfor %}
{% for x in none %}{% endfor %}
{% for x in missing %}a{% endfor %}b
{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}|{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}
{% for x in l %}{% for y in l %}{{ loop.index }}{% endfor %}-{{ loop.index }} {% endfor %}
{% for x in l %}{{ loop.cycle("a", "b") }}{% endfor %}
{% for x in [1, 1, 2, 2, 1] %}{{ loop.changed(x) }} {% endfor %}
{% for x in [1, [2, [3]]] recursive %}{% if x is iterable %}({{ loop(x) }}){{ loop.depth }}{% else %}{{ x }}.{{ loop.depth0 }}{% endif %}{% endfor %}
{% set x = 1 %}{% for i in l %}{% set x = i %}{{ x }}{% endfor %}{{ x }}
{% set ns = namespace(c=0) %}{% for i in l %}{% set ns.c = ns.c + i %}{% endfor %}{{ ns.c }}
{% set ns = namespace() %}{% set ns.a = 1 %}{% set ns["b"] = 2 %}{{ ns.a }}
{% set x = {} %}{% set x.a = 1 %}
{% set ns = namespace(a=[1]) %}{{ ns }}{{ ns.a[0] }}{{ ns.b is defined }}{{ ns["a"] }}
{% if true %}{% set x = 5 %}{% endif %}{{ x }}
{% set a, b = 1, 2 %}{{ a }}{{ b }}{% set c = 1, 2 %}{{ c }}
{% set x %}a{{ n }}b{% endset %}{{ x }}{{ x | length }}
{% set x | upper %}abc{% endset %}{{ x }}
{% set x | replace("a", "b") | upper %}abc{% endset %}{{ x }}
{% filter upper %}abc {{ s }}{% endfilter %}
{% filter indent(2, true) | trim %}a
b{% endfilter %}
{% macro m(a, b=2, c=a) %}{{ a }}{{ b }}{{ c }};{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(1, c=9) }}{{ m(b=5, a=4) }}{{ m() }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}
{% macro m(a) %}{{ a }}{% endmacro %}{{ m(q=2) }}
{% macro m() %}{{ varargs }}{{ kwargs }}{% endmacro %}{{ m(1, 2, x=3) }}
{% macro m(x) %}{{ x }}-{{ caller() }}-{{ caller is defined }}{% endmacro %}{% call m(5) %}body{{ n }}{% endcall %}
{% macro m() %}{{ caller(1, b=2) }}{% endmacro %}{% call(a, b) m() %}{{ a }}+{{ b }}{% endcall %}
{% macro m() %}x{% endmacro %}{% call m() %}y{% endcall %}
{% macro f(k) %}{% if k > 0 %}{{ k }}{{ f(k - 1) }}{% endif %}{% endmacro %}{{ f(5) }}
{% macro m() %}{{ later }}{% endmacro %}{% set later = 3 %}{{ m() }}{{ m.name }}
{% macro m() %}{% set q = 1 %}{% endmacro %}{{ m() }}{{ q is defined }}{{ m is callable }}
{% for i in l %}{% macro g() %}{{ i }}{% endmacro %}{{ g() }}{% endfor %}
{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a is defined }}
{% generation %}a{{ n }}{% set q = 1 %}{% endgeneration %}{{ q is defined }}
{% if z %}a{% elif n == 7 %}b{% else %}c{% endif %}{% if missing %}x{% endif %}{% if not missing %}y{% endif %}
{% if 1, 2 %}t{% endif %}
{% raw %}{{ x }} {% if %}{% endraw %}|{%- raw -%}  a  {%- endraw -%}  |
a {# comment {{ x }} #} b{#- c -#} d
{% if t %}
  line
{% endif %}
end
  {% if t %}
    inner
  {%- endif %}
  tail
a   {{- n -}}   b {{ n }} c  {%- if t -%}  d  {%- endif -%}  e
{%+ if t %}x{%+ endif %}
y
  {%+ if t +%}
x
{% endif +%}

z
{{ n }}
{{ n }}

{#- only -#}
  {# indented comment #}
after
   text {% if t %}
same line{% endif %}
{{ "{{" }}{{ '%}' }}{{ {"a": {"b": 1}}["a"]["b"] }}
{{ {'a':{'b':1}} }}
{% set x = "a" if nope else none %}{{ x }}
{% set x = missing.y if missing is defined else "ok" %}{{ x }}
{{ raise_exception("message é") }}
{% if nope %}{{ n | from_json }}{% endif %}ok
{{ n | from_json if nope else "ok" }}
{% for i in [] %}{{ n | from_json }}{% endfor %}
{% if nope %}{% for i in [] %}{{ n | from_json }}{% endfor %}{% endif %}
{% if n is nosuch %}{% endif %}
{% include "x" %}
{% import "x" as y %}
{% extends "x" %}
{% do l.append(1) %}
{% for x in l %}
{% endif %}
{% unknown %}
{{ n
{{ n }
{% if t %}
{{ 1 + }}
{{ (1 }}
{{ 'abc }}
{{ a b }}
{{ }}
{# open
{% raw %} open
{% set 5 = 1 %}
{% set true = 1 %}
{% break %}
{{ "a" is string is string }}
{{ f(a=1, 2) }}
{{ n.5x }}
{{ $ }}
{{ n }} {{ n|upper
{%- for m in people -%}
{{ m.name }}:
  {%- if m.age > 26 %} old{% else %} young{% endif %}

{% endfor %}
{% print n, s %}
{{ people | map(attribute="name") | map("upper") | select("ne", "BOB") | join("+") }}
{{ d | items | map("first") | list }}{{ d | items | map("last") | list }}
{% set g = l | select("odd") %}{{ g | list }}{{ g | list }}
{{ strftime_now("%Y") | length }}{% set j = joiner("-") %}{% for i in l %}{{ j() }}{{ i }}{% endfor %}
{{ namespace(**{"a": 1}).a }}{{ dict(**d) }}{{ "{}{}".format(*l[:2]) }}
{% macro m(a, b) %}{{ a }}{{ b }}{% endmacro %}{{ m(*[1, 2]) }}{{ m(**{"a": 1, "b": 2}) }}
{% macro m(x) %}{{ x | tojson }}{% endmacro %}{{ m(nested) }}{% set r = m([1]) %}{{ r is string }}{{ r | length }}
{{ l[1:] + l[:1] }}{{ (l | list)[::-1] }}{{ s.split(" ")[0] | upper }}{{ -l[0] }}{{ not l }}{{ l and d }}
{{ "a\
b" }}
"""


def templates():
    for line in EXPRESSIONS.strip().splitlines():
        for expression in split_outside_quotes(line):
            yield "{{ " + expression.strip() + " }}"
    blocks = []
    for line in TEMPLATES.strip("\n").splitlines():
        blocks.append(line)
    yield from (b for b in blocks if b.strip())
    yield from MULTILINE


def split_outside_quotes(line):
    parts, current, quote = [], "", ""
    for c in line:
        if quote:
            quote = "" if c == quote else quote
        elif c in "'\"":
            quote = c
        if c == ";" and not quote:
            parts.append(current)
            current = ""
        else:
            current += c
    return [p for p in parts + [current] if p.strip()]


MULTILINE = [
    "{% if t %}\n  line\n{% endif %}\nend\n", "  {% if t %}\n    inner\n  {%- endif %}\n  tail", "{% raw %}\nx\n{% endraw %}\ny\n",
    "a\n  {# c #}\nb\n\n", "a\r\nb\r{{ n }}\r\n", "{{ n }}\n\n", "  {{ n }}  \n {% set x = 1 %}\n{{ x }}", "{% for i in l %}\n{{ i }}\n{% endfor %}\n",
    "{% for i in l -%}\n  {{ i }}\n{%- endfor %}\n", "x {% if t %} y {% endif %} z", "\t{% if t %}\tq\t{% endif %}\t\n", "{%+ if t +%}\n x{% endif %}",
    "{#- a -#}\n\n b {#+ c +#}\n d", "{% set x %}\n  a\n{% endset %}[{{ x }}]", "{% macro m() %}\n  a\n{% endmacro %}\n[{{ m() }}]\n",
    "{% filter upper %}\na\n{% endfilter %}\nb", "{{ 'a\nb' }}{{ 'c\\\nd' }}", "\u3000{% if t %}\u00a0x{%- endif %}\u00a0", "{{ x }}{% set x = 1 %}{{ x }}",
    "a\n\n{%- if t %}\n\nb\n\n{%- endif -%}\n\nc", "{% if t %}{# #}\n{% endif %}{{ n }}\n\n\n", "{% generation %}\na\n{% endgeneration %}\nb", "",
    "\n", "{{", "}}", "{%", "{#", "{{ 'a' }}}}", "{% raw %}{% endraw", "{{-n-}}", "{{ - n }}", "{{+n}}", "{%- if t -%}{{ n }}{%- endif -%}\n",
    "line1\n  {%- set x = 1 %}\nline2\n  {% set y = 1 -%}\nline3", "{{ n }}{#\n\n#}\n{{ missing.x }}",
]


def main():
    cases = []
    for source in templates():
        case = {"template": source}
        try:
            text = _compile_jinja_template(source).render(**json.loads(json.dumps(CONTEXT)))
            if " at 0x" in text:
                continue  # prints an address
            text.encode()
            case["text"] = text
        except Exception as error:  # whatever Python raises is a refusal
            case["error"] = f"{type(error).__name__}: {error}"
        cases.append(case)
    path = pathlib.Path(__file__).resolve().parents[2] / "src/text/jinja_cases.json"
    lines = ",\n".join(json.dumps(c, ensure_ascii=False) for c in cases)
    path.write_text('{"context": ' + json.dumps(CONTEXT, ensure_ascii=False) + ',\n"cases": [\n' + lines + "\n]}\n")
    print(len(cases), "cases,", sum("error" in c for c in cases), "of them refusals")


if __name__ == "__main__":
    main()
