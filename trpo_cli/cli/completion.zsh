# TAB completion of trpo-train, trpo-eval, trpo-export and trpo-report in zsh.
(( $+functions[compdef] )) || { autoload -Uz compinit && compinit; }
_trpo_train() {
    local -a found open
    found=(${(f)"$(${words[1]} --complete "${(j: :)words[1,CURRENT]}" 2>/dev/null)"})
    open=(${(M)found:#*[=./]})
    found=(${found:#*[=./]})
    compadd -Q -S '' -a open
    compadd -Q -a found
}
_trpo_options() {
    if [[ $PREFIX == -* ]]; then
        compadd -- ${(uf)"$(${words[1]} --help 2>/dev/null | grep -oE -- '--[a-z][a-z-]*')"}
    else
        _files
    fi
}
compdef _trpo_train trpo-train
compdef _trpo_options trpo-eval trpo-export trpo-report
