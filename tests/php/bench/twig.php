<?php
// A template engine at work, as an application load: Debian's php-twig compiles a few templates
// anew, and renders them. Prints nanoseconds a round, the best of many. `on`: with records written.
require __DIR__ . '/../phpt/trace.inc';
require '/usr/share/php/Twig/autoload.php';

$templates = [
    'layout' => '<!doctype html><title>{% block title %}Shop{% endblock %}</title><body>{% block body %}{% endblock %}'
        . '{% include "foot" with {year: 2026} only %}</body>',
    'foot' => '<footer>{{ year }} {% for n in 1..5 %}<a href="/p/{{ n }}">{{ n }}</a>{% if not loop.last %}, {% endif %}{% endfor %}</footer>',
    'macros' => '{% macro price(p) %}{{ p|number_format(2, ",", ".") }} EUR{% endmacro %}',
    'page' => '{% extends "layout" %}{% from "macros" import price %}{% block title %}{{ title|upper }}{% endblock %}'
        . '{% block body %}<ul>{% for item in items %}<li class="{{ cycle(["odd", "even"], loop.index0) }}">'
        . '{{ item.name|title }}: {{ price(item.price) }} {% if item.tags is not empty %}({{ item.tags|join(", ") }}){% endif %}'
        . '{{ item.note|default("none")|length > 20 ? item.note|slice(0, 20) ~ "..." : item.note }}</li>{% endfor %}</ul>{% endblock %}',
];

$items = [];
for ($i = 0; $i < 40; $i++) {
    $items[] = ['name' => "thing number $i", 'price' => $i * 3.75, 'tags' => $i % 3 ? ['a', 'b<c>', "t$i"] : [],
        'note' => str_repeat('a "quoted" note & more ', $i % 4 + 1)];
}

function round_of_work(Twig\Environment $render, array $templates, array $items): int
{
    $twig = new Twig\Environment(new Twig\Loader\ArrayLoader($templates), ['cache' => false]);
    $bytes = 0;
    foreach ($templates as $name => $source) {
        $bytes += strlen($twig->compileSource(new Twig\Source($source, $name)));
    }
    for ($i = 0; $i < 8; $i++) {
        $bytes += strlen($render->render('page', ['title' => "things $i", 'items' => $items]));
    }
    return $bytes;
}

$render = new Twig\Environment(new Twig\Loader\ArrayLoader($templates), ['cache' => false]);
if (($argv[1] ?? '') === 'on') {
    t_on((int) ($argv[3] ?? ON));
}
$best = PHP_INT_MAX;
$rounds = (int) ($argv[2] ?? 40);
for ($r = 0; $r < $rounds; $r++) {
    $begun = hrtime(true);
    $bytes = 0; $bytes = round_of_work($render, $templates, $items);
    $best = min($best, hrtime(true) - $begun);
}
echo $best, "\n";
fprintf(STDERR, "%d bytes\n", $bytes ?? 0);
