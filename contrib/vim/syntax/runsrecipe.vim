" A recipe: one script a line with its operations, indented lines of more, `@recipe`. Groups look alike.
if exists('b:current_syntax')
  finish
endif

syntax match runsComment /\%(^\|\s\)\zs#.*$/
syntax match runsScriptName /^[^ \t#@!][^ \t]*/
syntax match runsInclude /^!\=@\S\+/
syntax match runsExcluded /^!\S\+/ contains=runsInclude
syntax match runsOperation /\s\zs[A-Za-z_]\w*\ze[-+]\==/
syntax match runsArray /^\s\+\zs[A-Za-z_]\w*\ze\%(\s\|$\)/
syntax region runsString start=/'/ end=/'/
syntax region runsString start=/"/ skip=/\\./ end=/"/

highlight default link runsComment Comment
highlight default link runsScriptName Function
highlight default link runsInclude Include
highlight default link runsExcluded Special
highlight default link runsOperation Identifier
highlight default link runsArray Identifier
highlight default link runsString String

let b:current_syntax = 'runsrecipe'
