<?php
// A parser at work, as an application load: markdown to HTML by lines and patterns, then JSON there
// and back. Prints nanoseconds a round, the best of many. `on`: with records written.
require __DIR__ . '/../phpt/trace.inc';

final class Markdown
{
    private array $notes = [];

    public function render(string $text): string
    {
        $html = '';
        foreach (preg_split('/\n{2,}/', trim($text)) as $block) {
            $html .= $this->block($block) . "\n";
        }
        return $html . json_encode($this->notes);
    }

    private function block(string $block): string
    {
        if (preg_match('/^(#{1,6})\s+(.*)$/s', $block, $m)) {
            return $this->heading(strlen($m[1]), $m[2]);
        }
        if (preg_match('/^```(\w*)\n(.*)\n```$/s', $block, $m)) {
            return '<pre class="' . htmlspecialchars($m[1]) . '">' . htmlspecialchars($m[2]) . '</pre>';
        }
        if (preg_match_all('/^[-*]\s+(.*)$/m', $block, $m) && str_starts_with($block, '-')) {
            return '<ul><li>' . implode('</li><li>', array_map($this->inline(...), $m[1])) . '</li></ul>';
        }
        return '<p>' . $this->inline($block) . '</p>';
    }

    private function heading(int $level, string $text): string
    {
        $id = trim(preg_replace('/[^a-z0-9]+/', '-', strtolower($text)), '-');
        $this->notes[] = ['level' => $level, 'id' => $id, 'words' => str_word_count($text)];
        return "<h$level id=\"$id\">" . $this->inline($text) . "</h$level>";
    }

    private function inline(string $text): string
    {
        $text = htmlspecialchars($text, ENT_NOQUOTES);
        $text = preg_replace('/`([^`]+)`/', '<code>$1</code>', $text);
        $text = preg_replace('/\*\*(.+?)\*\*/s', '<b>$1</b>', $text);
        $text = preg_replace('/\*(.+?)\*/s', '<i>$1</i>', $text);
        return preg_replace_callback('/\[([^\]]+)\]\(([^)\s]+)\)/', function (array $m) {
            return '<a href="' . htmlspecialchars($m[2]) . '">' . $m[1] . '</a>';
        }, $text);
    }
}

$text = '';
for ($i = 0; $i < 60; $i++) {
    $text .= "## Section $i of *many*\n\nSome **bold** text with `code $i`, a [link](https://example.org/$i?a=1&b=2) and "
        . "enough *words* to make a paragraph of the usual length, which goes on for a line or two.\n\n"
        . "- one **$i**\n- two\n- [three](x.html)\n\n```php\n\$a = $i < 3 && true;\necho \"<b>\$a</b>\";\n```\n\n";
}

if (($argv[1] ?? '') === 'on') {
    t_on((int) ($argv[3] ?? ON));
}
$best = PHP_INT_MAX;
for ($round = 0; $round < (int) ($argv[2] ?? 40); $round++) {
    $begun = hrtime(true);
    for ($i = 0; $i < 4; $i++) {
        $html = (new Markdown)->render($text);
        $data = json_decode(json_encode(['html' => $html, 'words' => explode(' ', $text)]), true);
    }
    $best = min($best, hrtime(true) - $begun);
}
echo $best, "\n";
