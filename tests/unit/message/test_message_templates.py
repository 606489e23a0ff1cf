"""Templates are strict, say what they need, and cannot make much out of little."""

from __future__ import annotations

import time
import tracemalloc

import pytest

from fullsend.errors import RenderError
from fullsend.message.checks import Checked, check
from fullsend.message.guards import Budget
from fullsend.message.templates import LimitedEnvironment, Part


def render(source: str, values: dict[str, object] | None = None, *, html: bool = False) -> str:
    environment = LimitedEnvironment(Budget(), html=html)
    return Part("text", source, environment).text({**environment.globals, **(values or {})})


def checked(source: str) -> Checked:
    found, problems = check("message.text", source, LimitedEnvironment(Budget(), html=False))
    assert not problems
    assert found is not None
    return found


HOSTILE = [
    "{{ 'a' * 500000000 }}",
    "{{ 500000000 * 'a' }}",
    "{{ [0] * 500000000 }}",
    "{{ ['aaaaaaaaaa' * 1000] * 9999 }}",
    "{{ 10 ** (10**10) }}",
    "{{ 2 ** 100000000 }}",
    "{% set ns = namespace(n=9) %}{% for i in range(60) %}{% set ns.n = ns.n * ns.n %}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{% set ns = namespace(s='a') %}{% for i in range(60) %}{% set ns.s = ns.s ~ ns.s %}{% endfor %}",
    "{% set ns = namespace(s=[1]) %}{% for i in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ 'a'|center(500000000) }}",
    "{{ 'a'.center(500000000) }}",
    "{{ 'a'.ljust(500000000) }}",
    "{{ 'a'.rjust(500000000) }}",
    "{{ 'a'.zfill(500000000) }}",
    "{{ '\t'.expandtabs(500000000) }}",
    "{{ '\t'.expandtabs(tabsize=500000000) }}",
    "{{ ['a']|map('center', 500000000)|list }}",
    "{{ '%500000000s' % 'a' }}",
    "{{ '%*s' % (500000000, 'a') }}",
    "{{ '%.500000000f' % 1.5 }}",
    "{{ '%(x)500000000s' % {'x': 'a'} }}",
    "{{ '%500000000s'|format('a') }}",
    "{{ '{:500000000}'.format('a') }}",
    "{{ '{:>{w}}'.format('a', w=500000000) }}",
    "{{ ('{:500000000}'|attr('format'))('a') }}",
    "{{ 'a'.encode().center(500000000) }}",
    "{{ '{x:500000000}'.format_map({'x': 'a'}) }}",
    "{{ ('{0}' * 1000).format('a' * 1000000) }}",
    "{{ ('%s' * 9000) % (('a' * 1000000,) * 9000) }}",
    "{{ 'a\nb'|indent(500000000) }}",
    "{{ ('a\n' * 1000000)|indent(9999) }}",
    "{{ ('a\n' * 1000000)|indent('a' * 1000000) }}",
    "{{ ('a' * 1000000)|replace('a', 'b' * 1000000) }}",
    "{{ ('a' * 1000000).replace('a', 'b' * 1000000) }}",
    "{{ ('a' * 1000000).replace('', 'b' * 1000000) }}",
    "{{ range(10000)|join('a' * 1000000) }}",
    "{{ ('a' * 1000000).join('b' * 1000000) }}",
    "{{ ('a ' * 1000000)|wordwrap(1, True, 'b' * 1000000) }}",
    "{{ [1]|batch(500000000, 'x')|list }}",
    "{{ [1]|slice(500000000)|list }}",
    "{{ 1.5|round(500000000, 'ceil') }}",
    "{{ [1]|tojson(indent=500000000) }}",
    "{{ (1).to_bytes(500000000, 'big') }}",
    "{{ range(500000000)|list }}",
    "{% for a in range(10000) %}{% for b in range(10000) %}{% endfor %}{% endfor %}",
    "{% for a in range(9999) %}{% set x = range(9999)|sort|list %}{% endfor %}",
    "{% macro m(n) %}{{ m(n) }}{{ m(n) }}{% endmacro %}{{ m(1) }}",
    "{% macro m(n) %}{% if n %}{{ m(n - 1) }}{{ m(n - 1) }}{% endif %}{% endmacro %}{{ m(40) }}",
    "{% for x in [1] recursive %}{{ loop([1]) }}{% endfor %}",
    "{% set x %}{% for i in range(10000) %}" + "static text " * 1000 + "{% endfor %}{% endset %}",
    "{% macro m() %}" + "static text " * 1000 + "{% endmacro %}"
    "{% set x %}{% for i in range(10000) %}{{ m() }}{% endfor %}{% endset %}",
    "{% set b = 'a' * 1000000 %}{% for i in range(10000) %}{{ b }}{% endfor %}",
    "{% set b = 'a' * 1000000 %}{% set x %}{% for i in range(10000) %}{{ b }}{% endfor %}{% endset %}",
    "{% set b = 'a' * 1000000 %}{% filter upper %}{% for i in range(10000) %}{{ b|lower }}{% endfor %}{% endfilter %}",
    "{% set b = 'a' * 1000000 %}{% set l = [b] * 3 %}{% for i in range(10000) %}{{ l }}{% endfor %}",
    "{{ lipsum(n=100000) }}",
    "{{ [1, 2]|random }}",
    "{{ 'a'.translate({97: 'b' * 1000}) }}",
    "{{ ''.__class__.__mro__ }}",
    "{{ ('%s' % 'a').__init__.__globals__ }}",
    "{{ '{0.__class__.__init__.__globals__}'.format(range) }}",
    "{{ [].append(1) }}",
]


@pytest.mark.parametrize("source", HOSTILE)
def test_a_hostile_template_is_refused_in_little_time_and_memory(source: str) -> None:
    tracemalloc.start()
    start = time.thread_time()
    try:
        environment = LimitedEnvironment(Budget(), html=False)
        found, problems = check("message.text", source, environment)
        if found is not None:
            with pytest.raises(RenderError) as failure:
                Part("text", source, environment).text(dict(environment.globals))
            assert str(failure.value).startswith("text, line ")
        else:
            assert problems
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert time.thread_time() - start < 6
    assert peak < 100_000_000


@pytest.mark.parametrize(
    ("source", "result"),
    [
        ("{{ 'ab' * 3 }}", "ababab"),
        ("{{ 2 ** 10 }} {{ 2 ** 0.5 > 1 }} {{ 7 % 4 }} {{ 1 + 2 }} {{ [1] + [2] }}", "1024 True 3 3 [1, 2]"),
        ("{{ 'a' ~ 1 ~ none }}", "a1None"),
        ("{{ '%05.1f of %s' % (3.14159, 'pi') }}", "003.1 of pi"),
        ("{{ '%s, order 123456' % 'x' }}", "x, order 123456"),
        ("{{ '{:,.2f} {{}} order 123456'.format(1234.5) }}", "1,234.50 {} order 123456"),
        ("{{ '%s-%s'|format('a', 'b') }}", "a-b"),
        ("{{ 'x'|center(5) }}|{{ 'x'.rjust(3) }}|{{ '7'.zfill(3) }}", "  x  |  x|007"),
        ("{{ 'a\tb'.expandtabs(4) }} {{ 'a\tb'.expandtabs(tabsize=2) }}", "a   b a b"),
        ("{{ ['a', 'b']|join(', ') }} {{ '-'.join(['c', 'd']) }}", "a, b c-d"),
        ("{{ 'a\nb'|indent(2) }}", "a\n  b"),
        ("{{ 'a-b'|replace('-', '+') }} {{ 'a-b'.replace('-', '') }}", "a+b ab"),
        ("{{ 2.345|round(1) }} {{ [1, 2, 3]|batch(2, 0)|list }}", "2.3 [[1, 2], [3, 0]]"),
        ("{% for x in [1, 2] %}{{ loop.index }}/{{ loop.length }}{{ ', ' if not loop.last }}{% endfor %}", "1/2, 2/2"),
        ("{% for x in [] %}{% else %}none{% endfor %}", "none"),
        ("{% for x in [3, 1, 2] if x > 1 %}{{ x }}{% endfor %}", "32"),
        ("{% for x in [{'c': [{'c': []}]}] recursive %}({{ loop(x.c) }}){% endfor %}", "(())"),
        ("{% macro m(x) %}<{{ x }}{{ caller() }}>{% endmacro %}{% call m(2) %}!{% endcall %}", "<2!>"),
        ("{% set ns = namespace(t=0) %}{% for x in [1, 2] %}{% set ns.t = ns.t + x %}{% endfor %}{{ ns.t }}", "3"),
        ("{% filter upper %}a{{ 'b' }}{% endfilter %}", "AB"),
        ("{{ null_value }}.", "."),
        ("{{ null_value or 'friend' }}", "friend"),
    ],
)
def test_everyday_templates_are_not_in_the_way_of_the_guards(source: str, result: str) -> None:
    assert render(source, {"null_value": None}) == result


def test_only_html_is_escaped() -> None:
    assert render("{{ x }}", {"x": "<a&b>"}, html=True) == "&lt;a&amp;b&gt;"
    assert render("{{ x }}", {"x": "<a&b>"}) == "<a&b>"
    assert render("{{ x ~ '<' }}", {"x": "&"}, html=True) == "&amp;&lt;"


@pytest.mark.parametrize(
    ("source", "message"),
    [
        ("one\ntwo {{ nme }}", "text, line 2: 'nme' is undefined"),
        ("{{ a.b }}", "text, line 1: 'dict object' has no attribute 'b'"),
        ("{% if nme %}{% endif %}", "text, line 1: 'nme' is undefined"),
        ("\n\n{{ 1 / 0 }}", "text, line 3: division by zero"),
        ("{% macro m() %}\n{{ nme }}{% endmacro %}\n\n{{ m() }}", "text, line 2: 'nme' is undefined"),
    ],
)
def test_a_failure_names_part_line_and_cause(source: str, message: str) -> None:
    with pytest.raises(RenderError) as failure:
        render(source, {"a": {}})
    assert str(failure.value) == message


@pytest.mark.parametrize(
    ("source", "where", "what"),
    [
        ("a\n{{ x", "message.text, line 2", "unexpected end of template"),
        ("{% fro x in y %}", "message.text, line 1", "Encountered unknown tag 'fro'"),
        ("{% if x %}", "message.text, line 1", "Unexpected end of template"),
        ("\n{{ x|uper }}", "message.text, line 2", "there is no filter 'uper'"),
        ("{% if false %}{{ x|uper }}{% endif %}", "message.text, line 1", "there is no filter 'uper'"),
        ("{{ x is od }}", "message.text, line 1", "there is no test 'od'"),
        ("{{ x|_counted(1) }}", "message.text, line 1", "there is no filter '_counted'"),
        ("{% include 'a' %}", "message.text, line 1", "{% include %} cannot be used"),
        ("{% extends 'a' %}", "message.text, line 1", "{% extends %} cannot be used"),
        ("{% import 'a' as b %}", "message.text, line 1", "{% import %} cannot be used"),
        ("{% from 'a' import b %}", "message.text, line 1", "{% from %} cannot be used"),
        ("{{ " + "(" * 3000 + "1" + ")" * 3000 + " }}", "message.text", "the template is nested too deeply"),
        ("{% for a in b %}" * 25 + "{% endfor %}" * 25, "message.text", "the template cannot be compiled"),
        ("{{ " + "9" * 5000 + " }}", "message.text", "Exceeds the limit"),
        ("{% block a %}{% endblock %}{% block a %}{% endblock %}", "message.text, line 1", "block 'a' defined twice"),
    ],
)
def test_a_broken_template_is_reported_with_its_line(source: str, where: str, what: str) -> None:
    found, problems = check("message.text", source, LimitedEnvironment(Budget(), html=False))
    assert found is None
    assert problems[0].where == where
    assert what in problems[0].what or what in str(problems[0])


def test_a_misspelt_filter_gets_a_suggestion() -> None:
    _, (problem,) = check("message.text", "{{ x|uper }}", LimitedEnvironment(Budget(), html=False))
    assert problem.fix == "did you mean 'upper'?"


@pytest.mark.parametrize(
    ("source", "required", "optional"),
    [
        ("plain", "", ""),
        ("{{ a }} {{ b.c }} {{ d[e] }}", "a b d e", ""),
        ("{{ a|default('x') }} {{ b|d(c) }}", "c", "a b"),
        ("{% if a is defined %}{{ a }}{% endif %}", "", "a"),
        ("{% if a is defined and a %}{{ a }}{{ b }}{% endif %}", "b", "a"),
        ("{% if not (a is defined) %}{% else %}{{ a }}{% endif %}", "", "a"),
        ("{% if a is undefined %}x{% else %}{{ a }}{% endif %}", "", "a"),
        ("{{ a if a is defined else 'x' }}", "", "a"),
        ("{{ a is defined and a.b }}", "", "a"),
        ("{{ a|default('x') }}{{ a }}", "a", ""),
        ("{{ a if a else 'x' }}", "a", ""),
        ("{% set a = a|default('x') %}{{ a }}", "", "a"),
        ("{% set a %}x{% endset %}{{ a }}", "", ""),
        ("{% for a in b %}{{ a }}{{ loop.index }}{% endfor %}", "b", ""),
        ("{% macro m(a) %}{{ a }}{{ b }}{% endmacro %}{{ m(c) }}", "b c", ""),
        ("{% with a = b %}{{ a }}{% endwith %}", "b", ""),
        ("{{ range(3)|join }}{{ dict(a=1) }}", "", ""),
    ],
)
def test_the_names_a_template_needs_are_known(source: str, required: str, optional: str) -> None:
    found = checked(source)
    assert (found.required, found.optional) == (frozenset(required.split()), frozenset(optional.split()))
